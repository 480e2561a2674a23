"""Secrets from the environment, files and credentials; no text of a secret is ever shown."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamedge.config.as_toml import config_as_toml
from streamedge.config.load import load
from streamedge.config.schema.config import Config, S3OriginConfig
from streamedge.config.secrets import SecretSources
from streamedge.errors import ConfigError

ORIGIN = '[origins.main]\ntype = "s3"\nbucket = "b"\naccess_key_id = "AKIA"\n'


def config_with(folder: Path, secret: str, more: str = "") -> Path:
    path = folder / "config.toml"
    path.write_text(f"{ORIGIN}secret_access_key = {secret}\n{more}")
    return path


def secret_of(config: Config) -> str:
    origin = config.origins["main"]
    assert isinstance(origin, S3OriginConfig)
    return origin.secret_access_key.get_secret_value()


def test_secret_is_read_from_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET_SECRET", "from-environment")
    (tmp_path / "secret").write_text("from-file\n")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "bucket").write_text("from-systemd")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    for source, expected in {
        '{ env = "BUCKET_SECRET" }': "from-environment",
        '{ file = "secret" }': "from-file",
        '{ credential = "bucket" }': "from-systemd",
        '"in the file"': "in the file",
    }.items():
        assert secret_of(load(config_with(tmp_path, source))) == expected


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    path = config_with(tmp_path, '{ file = "secret" }')
    for secret in ("first", "second"):
        (tmp_path / "secret").write_text(secret)
        assert secret_of(load(path)) == secret


def test_secrets_in_tables_by_name_have_sources_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "a" * 40)
    hash_ = "scrypt:15:8:3:" + "A" * 22 + "==:" + "B" * 43 + "="
    document: dict[str, object] = {
        "api": {"keys": {"AKIA": {"env": "A_SECRET"}}},
        "fleet": {"engine": {"env": "A_SECRET"}},
        "origins": {
            "web": {"type": "http", "headers": {"X-Key": {"env": "A_SECRET"}, "X-Other": "text"}}
        },
        "admin": {"users": {"ann": {"password": hash_}}, "tokens": {"t": {"hash": "x"}}},
    }
    assert SecretSources(tmp_path, {"A_SECRET": "value"}).resolve(document) == []
    assert document["api"] == {"keys": {"AKIA": "value"}}
    assert document["fleet"] == {"engine": "value"}
    assert document["origins"] == {
        "web": {"type": "http", "headers": {"X-Key": "value", "X-Other": "text"}}
    }


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{ env = "NOT_SET_ANYWHERE" }', "the variable NOT_SET_ANYWHERE is not set"),
        ('{ env = "a b" }', "expected the name of a variable"),
        ('{ file = "none" }', "No such file or directory"),
        ('{ file = "." }', "Is a directory"),
        ('{ file = "empty" }', "is empty"),
        ('{ credential = "bucket" }', "set LoadCredential=bucket:PATH"),
        ('{ credential = "../bucket" }', "expected the name of a credential"),
        ('{ env = "A", file = "b" }', "{ env = NAME }, { file = PATH }"),
        ("{ env = 1 }", "expected a name as a string at env"),
        ('{ vault = "x" }', "{ env = NAME }, { file = PATH }"),
    ],
)
def test_source_that_cannot_be_read_is_one_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError) as caught:
        load(config_with(tmp_path, source))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path}/config.toml:5: origins.main.secret_access_key: ")
    assert expected in problem


NO_DELIMITERS = str.maketrans("", "", "/?#")
secrets = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"'\\"),
    min_size=12,
    max_size=60,
).map(lambda text: f"S3CRET{text}")


@given(secrets, st.booleans())
def test_no_output_has_a_secret(
    tmp_path_factory: pytest.TempPathFactory, secret: str, has_mistake: bool
) -> None:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "secret").write_text(secret)
    more = (
        '[origins.web]\ntype = "http"\nurl = "http://127.0.0.1"\n'
        f'headers = {{ X-Key = "{secret}" }}\n'
        f'[fleet]\nengine = "rediss://user:{secret.translate(NO_DELIMITERS)}@h"\n'
    )
    if has_mistake:
        more = f'{more}[origins.bad]\ntype = "s3"\nsecret_access_key = "{secret}"\nx = "{secret}"\n'
        with pytest.raises(ConfigError) as caught:
            load(config_with(folder, '{ file = "secret" }', more))
        outputs = [*caught.value.problems, repr(caught.value), str(caught.value)]
    else:
        more = more.partition("[fleet]")[0]
        config = load(config_with(folder, '{ file = "secret" }', more))
        assert secret_of(config) == secret
        outputs = [repr(config), str(config), config.model_dump_json(), config_as_toml(config)]
        assert pickle.loads(pickle.dumps(config)) == config
    assert not [text for text in outputs if secret in text or json.dumps(secret)[1:-1] in text]
