"""A config file loads, or each of its mistakes is reported with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamedge.config.load import CONFIG_LIMIT_BYTES, load
from streamedge.config.schema.config import (
    Config,
    DirectoryOriginConfig,
    RtmpDistributionConfig,
    S3OriginConfig,
)
from streamedge.errors import ConfigError

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-wJalrXUtnFEMI"

DESIGN_CONFIG = f"""
[edge]
name = "local"
cache = "var/cache"
cache_size = "20GiB"
workers = 0                      # 0: one for each CPU

[listen]
http = ["127.0.0.1:8080"]
rtmp = ["127.0.0.1:1935"]
admin = "127.0.0.1:9090"

[origins.samples]
type = "directory"
path = "media"

[origins.bucket]
type = "s3"
bucket = "videos"
region = "us-east-1"
endpoint = "http://127.0.0.1:9000"   # left out: AWS
access_key_id = "AKIAEXAMPLE"        # left out: the AWS credential chain (boto3)
secret_access_key = "{SECRET}"

[origins.site]
type = "http"
url = "https://www.example.org"

[[distributions]]
id = "EWEB"
type = "web"
aliases = ["cdn.example.com", "*"]   # "*": any host
origin = "bucket"
default_ttl = "24h"

[[distributions]]
id = "ESTREAM"
type = "rtmp"
aliases = ["*"]
application = ["cfx/st", "vod"]
origin = "bucket"
"""

Write = Callable[[str], Path]


@pytest.fixture(name="write")
def _write(tmp_path: Path) -> Write:
    """Writes a config beside an existing folder ``media``."""
    (tmp_path / "media").mkdir()

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return write


def problems(path: Path) -> list[str]:
    """The mistakes that ``load`` reports, without the common folder."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


def mistakes(path: Path) -> tuple[str, ...]:
    """The mistakes that ``load`` reports, or (). Any other exception fails the test."""
    try:
        assert isinstance(load(path), Config)
    except ConfigError as exc:
        return exc.problems
    return ()


def test_documented_config_loads(write: Write) -> None:
    path = write(DESIGN_CONFIG)
    config = load(path)
    assert config.edge.cache == path.parent / "var/cache"
    assert config.edge.cache_size == 20 * 2**30
    assert config.listen.http == (("127.0.0.1", 8080),)
    assert config.listen.admin == ("127.0.0.1", 9090)
    samples, bucket = config.origins["samples"], config.origins["bucket"]
    assert isinstance(samples, DirectoryOriginConfig)
    assert samples.path == path.parent / "media"
    assert isinstance(bucket, S3OriginConfig)
    assert bucket.secret_access_key.get_secret_value() == SECRET
    assert SECRET not in repr(config)
    web, rtmp = config.distributions
    assert web.default_ttl == 86_400
    assert isinstance(rtmp, RtmpDistributionConfig)
    assert rtmp.application == ("cfx/st", "vod")


def test_packaged_config_loads() -> None:
    config = load(ROOT / "config.toml")
    assert [distribution.id for distribution in config.distributions] == ["EWEB", "ESTREAM"]


def test_empty_file_has_all_defaults(write: Write) -> None:
    path = write("")
    config = load(path)
    assert config.limits == Config().limits
    assert config.edge.cache == path.parent / "var/cache"


def test_relative_paths_start_from_the_folder_of_the_file(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('[edge]\nlog = "edge.log"\ncache = "/absolute/cache"')
    monkeypatch.chdir(path.parent)
    edge = load(Path(path.name)).edge
    assert (edge.log, edge.cache) == (path.parent / "edge.log", Path("/absolute/cache"))


@pytest.mark.parametrize("log", ["stdout", "stderr"])
def test_log_may_be_a_standard_stream(write: Write, log: str) -> None:
    assert load(write(f'[edge]\nlog = "{log}"')).edge.log == log


def test_group_may_be_the_origin_of_both_kinds_of_distribution(write: Write) -> None:
    second = FOLDER.replace("samples", "backup")
    group = '[origin_groups.both]\norigins = ["samples", "backup"]\n'
    distributions = [kind.replace('"samples"', '"both"') for kind in (WEB, RTMP)]
    text = f'{FOLDER}{second}{group}{distributions[0]}id = "E"\n{distributions[1]}id = "F"'
    config = load(write(text))
    assert [distribution.origin for distribution in config.distributions] == ["both", "both"]


def test_aliases_are_compared_without_case(write: Write) -> None:
    text = DESIGN_CONFIG.replace("cdn.example.com", "CDN.Example.com")
    assert load(write(text)).distributions[0].aliases == ("cdn.example.com", "*")


S3 = '[origins.bucket]\ntype = "s3"\nbucket = "videos"\n'
FOLDER = '[origins.samples]\ntype = "directory"\npath = "media"\n'
WEB = '[[distributions]]\ntype = "web"\norigin = "samples"\n'
LOG = 'expected "stdout" or "stderr" or "off" or a path'
RTMP = '[[distributions]]\ntype = "rtmp"\norigin = "samples"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Unknown keys, at every depth.
        ("zzz = 1", "1: zzz: unknown key; known here: edge, listen, fleet, limits, certificates, "),
        ("\n[edg]\nname = 1", '2: edg: unknown key; did you mean "edge"?'),
        ("[edge]\n\nworker = 1", '3: edge.worker: unknown key; did you mean "workers"?'),
        (S3 + 'regoin = "x"', '4: origins.bucket.regoin: unknown key; did you mean "region"?'),
        (
            FOLDER + 'bucket = "x"',
            "4: origins.samples.bucket: unknown key; known here: prefix, type, path",
        ),
        (
            'limits = { "http idle" = 3 }',
            '1: limits."http idle": unknown key; did you mean "http_idle"?',
        ),
        (
            '"a\\nb" = 1',
            '1: "a\\nb": unknown key; known here: edge, listen, fleet, limits, certificates, ',
        ),
        # Types: nothing is coerced.
        (
            "[edge]\nworkers = true",
            "2: edge.workers: expected a whole number (0 to 256), found true",
        ),
        (
            'edge.workers = "2"',
            "1: edge.workers: expected a whole number (0 to 256), found a string",
        ),
        ("[edge]\nworkers = 2.0", "2: edge.workers: expected a whole number (0 to 256), found 2.0"),
        ("[edge]\nworkers = 257", "2: edge.workers: expected a whole number (0 to 256), found 257"),
        ("[edge]\nname = 3", "2: edge.name: expected a string (1 to 64 letters, "),
        ('[edge]\nname = "a b"', "2: edge.name: expected a string (1 to 64 letters, "),
        (
            "[edge]\nlog = 3",
            '2: edge.log: expected "stdout" or "stderr" or "off" or a path, found 3',
        ),
        (
            '[edge]\ncache = ""',
            '2: edge.cache: expected a path such as "var/cache", found one that',
        ),
        (
            "[edge]\nlog = [3]",
            '2: edge.log: expected "stdout" or "stderr" or "off" or a path, found a list',
        ),
        (
            "edge.log.a = 3",
            '1: edge.log: expected "stdout" or "stderr" or "off" or a path, found a table',
        ),
        (S3 + "anonymous = 1", "4: origins.bucket.anonymous: expected true or false, found 1"),
        ("edge = 1", "1: edge: expected a table, [edge], found a number"),
        ("[[edge]]", "1: edge: expected a table, [edge], found a list"),
        (
            "[[origins]]",
            "1: origins: expected tables, each with a header such as [origins.samples]",
        ),
        (
            "[distributions]",
            "1: distributions: expected tables, each with the header [[distributions]], found",
        ),
        ("origins.a = 1", "1: origins.a: expected a table, [origins.a], found a number"),
        (
            "distributions = [1]",
            "1: distributions[0]: expected tables, each with the header [[distr",
        ),
        # Quantities with units.
        ('[edge]\ncache_size = "20 gigs"', '2: edge.cache_size: expected a size such as "20GiB", '),
        (
            '[edge]\ncache_size = "1KiB"',
            "2: edge.cache_size: expected a size (64MiB to 1PiB), such",
        ),
        (
            "[limits]\nhttp_idle = 0",
            "2: limits.http_idle: expected a duration (above 0s), such as ",
        ),
        ('[limits]\nhttp_idle = "x"', '2: limits.http_idle: expected a duration such as "24h", '),
        ('[listen]\nhttp = [\n"8080",\n]', '2: listen.http[0]: expected an address such as "127.'),
        (
            '[listen]\nhttp = "x:1"',
            "2: listen.http: expected a list of addresses (at most 64 entries)",
        ),
        ('[listen]\nadmin = "x:99999"', "2: listen.admin: expected a port from 0 to 65535, found "),
        # Missing keys and unknown types.
        (
            '[origins.bucket]\ntype = "s3"',
            "1: origins.bucket.bucket: missing; expected a string (1 to 255 letters, digits or ",
        ),
        (
            '[origins.bucket]\ntype = "s3"\nbucket = "s3://films"',
            "3: origins.bucket.bucket: expected a string (1 to 255 letters, digits or ",
        ),
        ("[origins.a]", '1: origins.a.type: missing; expected "directory" or "http" or "s3"'),
        ('[origins.a]\ntype = "s4"', '2: origins.a.type: unknown type "s4"; did you mean "s3"?'),
        (
            FOLDER + '\n[[distributions]]\nid = "E"\norigin = "samples"\ntype = "http"',
            '8: distributions[0].type: unknown type "http"; did you mean "rtmp"? (expected ',
        ),
        ('[origins.a]\ntype = "ftp:"', '2: origins.a.type: unknown type "ftp:"; '),
        (
            "[origins.a]\ntype = 3",
            '2: origins.a.type: expected "directory" or "http" or "s3", found ',
        ),
        (
            FOLDER + '\n[[distributions]]\nid = "E"\norigin = "samples"\ntype = "rmtp"',
            '8: distributions[0].type: unknown type "rmtp"; did you mean "rtmp"?',
        ),
        (
            FOLDER + WEB,
            "4: distributions[0].id: missing; expected a string (1 to 64 letters, digits",
        ),
        (
            '[origins."a b"]\ntype = "s3"\nbucket = "x"',
            '1: origins."a b": expected a name of 1 to 64',
        ),
        # Text of a certain form.
        (
            '[origins.site]\ntype = "http"\nurl = "example.org"',
            "3: origins.site.url: expected a string (http:// or https://, at most 2048 characters",
        ),
        (
            FOLDER + WEB + 'id = "E"\naliases = ["a", "http://b"]',
            "8: distributions[0].aliases[1]: expected a string (a host name without port, ",
        ),
        (
            FOLDER + RTMP + 'id = "E"\napplication = ["/vod"]',
            "8: distributions[0].application[0]: expected a string (at most 256 characters, no",
        ),
        (
            FOLDER + RTMP + 'id = "E"\nenhanced = "lax"',
            '8: distributions[0].enhanced: expected "auto" or "strict"',
        ),
        # Conflicts between keys.
        (
            FOLDER + '[[distributions]]\ntype = "web"\nid = "E"\norigin = "sample"',
            '7: distributions[0].origin: no origin has the name "sample"; did you mean "samples"?',
        ),
        (
            '[[distributions]]\ntype = "web"\nid = "E"\norigin = "samples"',
            '4: distributions[0].origin: no origin has the name "samples"; known under [origins]: ',
        ),
        (
            FOLDER + WEB + 'id = "E"\nlog = { origin = "sample" }',
            '8: distributions[0].log.origin: no origin has the name "sample"; did you mean'
            ' "samples"?',
        ),
        (
            FOLDER
            + '[origins.site]\ntype = "http"\nurl = "http://a"\n'
            + RTMP
            + 'id = "E"\nlog = { origin = "site" }',
            '11: distributions[0].log.origin: "site" is no folder and no bucket: a log needs an'
            ' origin of type "directory" or "s3"',
        ),
        (
            FOLDER + WEB + 'id = "E"\nlog = { origin = "samples", prefix = "/a" }',
            "8: distributions[0].log.prefix: expected a string (at most 256 letters,",
        ),
        (
            FOLDER + WEB + 'id = "E"\nlog = { origin = "samples", interval = "2h" }',
            "8: distributions[0].log.interval: expected a duration (1s to 1h)",
        ),
        (
            FOLDER + RTMP + 'id = "E"\nlog = { origin = "samples", cookies = true }',
            "8: distributions[0].log.cookies: unknown key",
        ),
        (
            FOLDER + WEB + 'id = "E"\n' + RTMP + 'id = "E"',
            '11: distributions[1].id: another distribution has the id "E"; each needs its own',
        ),
        (
            FOLDER + WEB + 'id = "E"\naliases = ["a", "B"]\n' + WEB + 'id = "F"\naliases = ["b"]',
            '13: distributions[1].aliases: alias "b" is claimed by distribution "E" already',
        ),
        (
            FOLDER + WEB + 'id = "E"\n' + WEB + 'id = "F"',
            '8: distributions[1].aliases: alias "*" is claimed by distribution "E" already',
        ),
        (
            FOLDER + RTMP + 'id = "E"\napplication = ["a", "cfx/st"]\n' + RTMP + 'id = "F"',
            '9: distributions[1].aliases: alias "*" with application "cfx/st" is claimed by '
            'distribution "E" already',
        ),
        (
            '[listen]\nhttp = ["127.0.0.1:80", "[::1]:80"]\n\nrtmp = ["[0::1]:80"]',
            "4: listen.rtmp[0]: [::1]:80 is in use already, by listen.http as [::1]:80",
        ),
        (
            '[listen]\nhttp = [":9090"]',
            "1: listen.admin: 127.0.0.1:9090 is in use already, by listen.http as 0.0.0.0:",
        ),
        (
            S3 + 'access_key_id = "AKIA"',
            "1: origins.bucket.secret_access_key: missing; both keys or neither: without them, ",
        ),
        (
            S3 + f'secret_access_key = "{SECRET}"',
            "1: origins.bucket.access_key_id: missing; both keys or neither: without them, ",
        ),
        (
            S3.replace('"videos"', '"my_videos"') + "path_style = false",
            "4: origins.bucket.path_style: false puts the bucket's name into the host name, ",
        ),
        (
            S3 + f'anonymous = true\naccess_key_id = "AKIA"\nsecret_access_key = "{SECRET}"',
            "4: origins.bucket.anonymous: true means unsigned requests, but a signing key is ",
        ),
        (
            FOLDER.replace("media", "nowhere"),
            "3: origins.samples.path: expected a folder, found nothing at nowhere",
        ),
        (
            '[edge]\nlog = "none/edge.log"',
            "2: edge.log: expected a folder for the log, found nothing at none",
        ),
        ('[edge]\nlog = "media"', "2: edge.log: expected a file, found a folder at media"),
        (
            '[listen]\nadmin = "unix:config.toml"',
            "2: listen.admin: expected a socket, found something else at config.toml",
        ),
        (
            FOLDER.replace("media", "n" * 300),
            f"3: origins.samples.path: expected a folder, but {'n' * 300} cannot be read: File name"
            " too long",
        ),
        (
            '[listen]\nadmin = "unix:media/none/socket"',
            "2: listen.admin: expected a folder for the socket, found nothing at media/none",
        ),
        (
            FOLDER.replace("media", "config.toml"),
            "3: origins.samples.path: expected a folder, found a file at config.toml",
        ),
        (
            '[edge]\ncache = "config.toml"',
            "2: edge.cache: expected a folder, found a file with that ",
        ),
        # Text that is not TOML.
        ("[edge]\nname = local", "2: not TOML: Invalid value"),
        ("[edge]\n\n[edge]", "3: not TOML: Cannot declare ('edge',) twice"),
        ('[edge]\nname = """', "2: not TOML: Unterminated string"),
        (
            '[edge]\nname = "a"\nname = "b"',
            "3: not TOML: Cannot overwrite a value: name is in this table twice",
        ),
        (
            '[distributions]\nid = "a"\n[distributions]\nid = "b"',
            "3: not TOML: Cannot declare ('distributions',) twice: the header of each is [[distri",
        ),
        ("a = " + "[" * 20_000, "1: not TOML: "),
        ("a = " + "9" * 5_000, "1: a number has far too many digits"),
    ],
)
def test_mistake_is_reported_with_its_line_and_text(write: Write, text: str, expected: str) -> None:
    (problem,) = problems(write(text))
    assert problem.startswith(f"config.toml:{expected}")


def test_all_mistakes_are_reported_in_the_order_of_the_file(write: Write) -> None:
    text = f"""
[edge]
workers = true
[origins.bucket]
type = "s3"
bukcet = "videos"
access_key_id = "AKIA"
[listen]
http = ["127.0.0.1:9090"]
[[distributions]]
id = "E"
type = "web"
origin = "bukcet"
password = "{SECRET}"
"""
    reported = [problem.split(": ")[:2] for problem in problems(write(text))]
    assert reported == [
        ["config.toml:3", "edge.workers"],
        ["config.toml:4", "origins.bucket.bucket"],
        ["config.toml:4", "origins.bucket.secret_access_key"],
        ["config.toml:6", "origins.bucket.bukcet"],
        ["config.toml:8", "listen.admin"],
        ["config.toml:13", "distributions[0].origin"],
        ["config.toml:14", "distributions[0].password"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        f'{S3}secret_access_key = ["{SECRET}"]\naccess_key_id = "AKIA"',
        f'{S3}secret_access_kee = "{SECRET}"',
        f'{S3}secret_access_key = "{SECRET * 60}"\naccess_key_id = "AKIA"',
        f'{S3}access_key_id = "{SECRET * 60}"\nsecret_access_key = "x"',
        f'{S3}anonymous = "{SECRET}"',
        f'{S3}endpoint = "{SECRET}"',
        f'{S3}connections = "{SECRET}"',
        f'[origins.site]\ntype = "http"\nurl = "htp://user:{SECRET}@example.org"',
        f'{S3}secret_access_key = "{SECRET}" "',
        f"{S3}secret_access_key = {SECRET}",
    ],
)
def test_messages_contain_no_secret(write: Write, text: str) -> None:
    assert "hunter2" not in "\n".join(problems(write(text)))


def test_distributions_of_different_kind_or_application_may_share_an_alias(write: Write) -> None:
    text = (
        FOLDER + WEB + 'id = "A"\n' + RTMP + 'id = "B"\n' + RTMP + 'id = "C"\napplication = ["x"]'
    )
    assert len(load(write(text)).distributions) == 3


def test_port_0_and_other_address_families_never_conflict(write: Write) -> None:
    load(
        write('[listen]\nhttp = [":0", ":0", "[::]:80"]\nrtmp = [":80", "host:81"]\nadmin = ":81"')
    )


def test_file_that_is_binary_or_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"[edge]\nname = '\xff'")
    assert problems(path) == ["config.toml:2: not UTF-8, which TOML requires"]


def test_mark_of_windows_editors_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[edge]\nname = "fra-1"\n', encoding="utf-8-sig")
    assert load(path).edge.name == "fra-1"
    path.write_bytes(b"#" * (CONFIG_LIMIT_BYTES + 1))
    assert problems(path) == ["config.toml: expected at most 1048576 bytes, found more"]


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.toml") == [
        "none.toml: cannot be read: No such file or directory"
    ]
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


names = st.sampled_from(
    [
        *("edge", "listen", "limits", "origins", "distributions", "workers", "log", "http"),
        *("type", "path", "bucket", "aliases", "application", "origin", "id", "default_ttl"),
        *("a", "directory", "s3", '"x\\ty"', '""'),
    ]
)
scalars = st.one_of(
    st.sampled_from(['"s3"', '"directory"', '"web"', '"rtmp"', '"media"', '":0"', '"*"', '"1s"']),
    st.integers().map(str),
    st.sampled_from(["true", "inf", "nan", "1979-05-27", "07:32:00", '"\\u0000"', "''", "1e400"]),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(names, inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        )
    ),
    max_leaves=5,
)
keys = st.lists(names, min_size=1, max_size=3).map(".".join)
statements = st.one_of(
    st.tuples(keys, values).map(" = ".join),
    keys.map(lambda key: f"[{key}]"),
    keys.map(lambda key: f"[[{key}]]"),
    st.text(max_size=20),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.lists(statements, max_size=10).map("\n".join))
def test_any_text_loads_or_has_mistakes(write: Write, text: str) -> None:
    path = write("").with_name("any.toml")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    for problem in mistakes(path):
        assert len(problem.splitlines()) == 1
        assert problem.startswith(str(path))
        assert problem.isprintable()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.sampled_from(
        [number for number, line in enumerate(DESIGN_CONFIG.splitlines()) if " = " in line]
    ),
    value=values,
)
def test_valid_config_with_one_changed_value_loads_or_has_mistakes(
    write: Write, number: int, value: str
) -> None:
    """Deeper into the schema than random text gets."""
    lines = DESIGN_CONFIG.splitlines()
    lines[number] = f"{lines[number].split(' = ')[0]} = {value}"
    path = write("").with_name("changed.toml")
    path.write_text("\n".join(lines))
    reported = mistakes(path)
    assert all(problem.startswith(f"{path}:") for problem in reported)
    assert SECRET not in "".join(reported)
