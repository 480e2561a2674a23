"""SIGHUP: a valid file becomes the next generation, an invalid one changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamedge.access.geo import CountryDatabase
from streamedge.config.describe import restart_keys
from streamedge.config.load import load
from streamedge.config.schema.config import Config, Section
from streamedge.coordination.config_versions import ConfigVersions, ReloadResult
from streamedge.coordination.wakeups import Wakeups
from streamedge.ops.log import open_log
from streamedge.process.certificates import CertificateFiles, Certificates
from streamedge.process.reload import ConfigReloader, plan_reload
from tests.support.certificate_authority import CertificateAuthority, Pair

ORIGIN = '[origins.main]\ntype = "directory"\npath = "media"\n'
WEB = '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
GOOD = ORIGIN + WEB


@dataclass(slots=True)
class Edge:
    """A supervisor's reloader and the file that it reads."""

    file: Path
    config_versions: ConfigVersions
    reloader: ConfigReloader
    log: Path
    wakeups: Wakeups
    countries: CountryDatabase

    def reload(self, text: str) -> ReloadResult:
        self.file.write_text(text)
        request = self.config_versions.request_reload()
        self.reloader.reload()
        result = self.config_versions.reload_result(request)
        assert result is not None
        return result

    def lines(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with running(tmp_path, GOOD, None) as edge:
        yield edge


@contextmanager
def running(folder: Path, text: str, certificates: Certificates | None) -> Iterator[Edge]:
    (folder / "media").mkdir(exist_ok=True)
    file = folder / "config.toml"
    file.write_text(text)
    log = open_log(str(folder / "log"), "supervisor")
    config_versions, wakeups = ConfigVersions(load(file), 1), Wakeups(1)
    countries = CountryDatabase(None)
    reloader = ConfigReloader(file, config_versions, certificates, countries, wakeups, log)
    yield Edge(file, config_versions, reloader, folder / "log", wakeups, countries)
    config_versions.close()
    wakeups.close()
    log.close()


def test_valid_file_becomes_the_next_generation_and_wakes_all_processes(edge: Edge) -> None:
    result = edge.reload(GOOD + WEB.replace("EWEB", "E2") + 'aliases = ["b.example"]\n')
    assert result == ReloadResult(1, (), ("distributions.E2",), ())
    number, config = edge.config_versions.read()
    assert number == 1
    assert [each.id for each in config.distributions] == ["EWEB", "E2"]
    assert edge.config_versions.config is config
    assert edge.wakeups.take(0) == 1
    assert edge.wakeups.take(edge.wakeups.control) == 1
    (line,) = edge.lines("config_loaded")
    assert (line["generation"], line["changed"]) == (1, ["distributions.E2"])


def test_invalid_file_changes_nothing_and_its_mistakes_are_reported(edge: Edge) -> None:
    before = edge.config_versions.read()
    result = edge.reload(GOOD.replace('"main"', '"mian"') + "[limits]\nurl = true\nx = 1\n")
    assert result.generation == 0
    assert [problem.split(": ")[1] for problem in result.problems] == [
        "distributions[0].origin",
        "limits.url",
        "limits.x",
    ]
    assert edge.config_versions.read() == before
    (line,) = edge.lines("config_refused")
    assert line["mistakes"] == list(result.problems)
    assert edge.wakeups.take(edge.wakeups.control) == 1  # the caller gets the result


def test_missing_file_changes_nothing(edge: Edge) -> None:
    edge.file.unlink()
    edge.reloader.reload()
    assert edge.config_versions.generation == 0
    assert "cannot be read" in edge.lines("config_refused")[0]["mistakes"][0]


def test_keys_that_need_a_restart_are_logged_and_the_others_are_applied(edge: Edge) -> None:
    result = edge.reload("[edge]\nworkers = 7\n[limits]\nurl = 4096\n" + GOOD)
    assert result.needs_restart == ("edge.workers",)
    assert edge.lines("config_needs_restart")[0]["keys"] == ["edge.workers"]
    config = edge.config_versions.config
    assert (config.edge.workers, config.limits.url) == (0, 4096)


def test_unchanged_file_is_a_new_generation(edge: Edge) -> None:
    assert edge.reload(GOOD) == ReloadResult(1)
    assert edge.reload(GOOD) == ReloadResult(2)


def test_new_public_key_in_the_same_file_is_a_change(edge: Edge, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    def write_key() -> None:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key.pem").write_bytes(pem)

    write_key()
    text = '[public_keys.K1]\nfile = "key.pem"\n' + GOOD
    assert edge.reload(text).changed == ("public_keys.K1",)
    assert edge.reload(text).changed == ()
    write_key()
    assert edge.reload(text).changed == ("public_keys.K1",)


# Certificates


def tables(*pairs: Pair) -> str:
    return (
        "".join(
            f'[[certificates]]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
            for pair in pairs
        )
        + '[listen]\nhttps = ["127.0.0.1:0"]\n'
        + GOOD
    )


def test_certificates_of_a_valid_file_are_used_and_of_an_invalid_one_are_not(
    tmp_path: Path,
) -> None:
    authority = CertificateAuthority(tmp_path)
    one, other = authority.issue("a.example"), authority.issue("b.example")
    certificates = Certificates([CertificateFiles(one.certificate, one.key)])
    with running(tmp_path, tables(one), certificates) as edge:
        first = certificates.context_for(None)
        assert edge.reload(tables(other, one) + "x = 1\n").problems
        assert certificates.context_for("b.example") is first
        assert edge.reload(tables(one, other)).changed == ("certificates",)
        assert certificates.context_for("b.example") is not certificates.context_for("a.example")
        assert edge.reload(tables(one)).changed == ("certificates",)
        assert certificates.context_for("b.example") is certificates.context_for("a.example")


def test_last_certificate_stays_as_long_as_addresses_with_tls_do(tmp_path: Path) -> None:
    pair = CertificateAuthority(tmp_path).issue("a.example")
    certificates = Certificates([CertificateFiles(pair.certificate, pair.key)])
    with running(tmp_path, tables(pair), certificates) as edge:
        first = certificates.context_for(None)
        (problem,) = edge.reload(GOOD).problems
        assert problem.startswith("certificates: none is left")
        assert "restart the edge" in problem
        assert certificates.context_for(None) is first


@pytest.mark.parametrize(
    ("table", "key"),
    [
        (table, key)
        for table in ("edge", "listen", "limits", "countries", "api")
        for key in getattr(Config(), table).__class__.model_fields
    ],
)
def test_key_that_needs_a_restart_keeps_its_value(table: str, key: str) -> None:
    started = Config()
    section: Section = getattr(started, table)
    new_value = object()
    new = started.model_copy(update={table: section.model_copy(update={key: new_value})})
    plan = plan_reload(started, started, new)
    value = getattr(getattr(plan.config, table), key)
    if key in restart_keys(type(section)):
        assert (plan.changed, plan.needs_restart) == ((), (f"{table}.{key}",))
        assert value == getattr(section, key)
    else:
        assert (plan.changed, plan.needs_restart) == ((f"{table}.{key}",), ())
        assert value is new_value


def test_first_certificate_of_a_mixed_address_needs_a_restart(tmp_path: Path) -> None:
    pair = CertificateAuthority(tmp_path).issue("edge.test")
    mixed = '[listen]\nmixed = ["127.0.0.1:8443"]\n'
    certificates = f'[[certificates]]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
    with running(tmp_path, mixed + GOOD, None) as edge:
        assert edge.reload(mixed + GOOD + certificates).needs_restart == ("certificates",)
