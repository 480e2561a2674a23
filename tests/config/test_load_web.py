"""Web distributions in the config: they load, or each mistake is reported with its line."""

from __future__ import annotations

import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from streamedge.cli.config_summary import summary
from streamedge.config.load import load
from streamedge.config.managed import MANAGED_IDS, MANAGED_POLICIES, POLICY_TABLES
from streamedge.config.schema.config import (
    Config,
    HttpOriginConfig,
    S3OriginConfig,
    WebDistributionConfig,
)
from streamedge.config.schema.selection import Selection, SelectionMode
from streamedge.errors import ConfigError
from tests.support.patience import PATIENCE_S

SECRET = "hunter2-wJalrXUtnFEMI"
WHOLE = f"""
[listen]
https = ["127.0.0.1:8443"]
[[certificates]]
certificate = "certs/site.pem"
key = "certs/site.key"
[origins.site]
type = "http"
url = "https://www.example.org/base"
host = "viewer"
headers = {{ "X-Secret" = "{SECRET}" }}
ca = "certs/site.pem"
client_certificate = "certs/site.pem"
client_key = "certs/site.key"
follow_redirects = 2
total_timeout = "1m"
[origins.bucket]
type = "s3"
bucket = "videos"
path_style = true
headers = {{ "x-amz-request-payer" = "requester" }}
[origin_groups.main]
origins = ["site", "bucket"]
failover = [404, "timeout"]
[cache_policies.pages]
strict = true
max_ttl = "1h"
query_strings = {{ except = ["utm_source"] }}
headers = ["Accept-Language"]
[origin_request_policies.all]
query_strings = "all"
headers = ["Referer"]
cookies = "all"
[response_headers_policies.secure]
set = {{ "X-Frame-Options" = "DENY" }}
remove = ["X-Powered-By"]
hsts = "max-age=63072000; includeSubDomains"
cors = {{ origins = ["https://a.example"], headers = ["*"], max_age = "5m" }}
server_timing = 2.5
[limits]
request_body = "1GiB"
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
default_root_object = "index.html"
cache_policy = "pages"
origin_request_policy = "all"
response_headers_policy = "secure"
  [[distributions.behaviors]]
  path = "api/*"
  cache_policy = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
  methods = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]
  viewer_protocol = "redirect-to-https"
  origin = "site"
  [[distributions.behaviors]]
  path = "*.txt"
  compress = true
  [[distributions.error_pages]]
  status = 404
  path = "/404.html"
  response_status = 200
"""


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two certificates and a folder ``media``."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "certs").mkdir()
    (folder / "media").mkdir()
    for name in ("site", "other"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"),
                *("-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=site.example"),
                *("-keyout", f"certs/{name}.key", "-out", f"certs/{name}.pem"),
            ],
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=PATIENCE_S,
        )
    locked = ["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", "site.key"]
    subprocess.run(
        [*locked, "-out", "locked.key"],
        cwd=folder / "certs",
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    (folder / "certs/none.pem").write_text("no PEM\n")
    return folder


def read(folder: Path, text: str) -> Config:
    path = folder / "config.toml"
    path.write_text(text)
    return load(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    start = f"{folder}/config.toml:"
    return [
        problem.removeprefix(start).replace(f"{folder}/", "") for problem in caught.value.problems
    ]


def test_whole_web_config_loads(folder: Path) -> None:
    config = read(folder, WHOLE)
    assert config.listen.https == (("127.0.0.1", 8443),)
    assert config.certificates[0].key == folder / "certs/site.key"
    site, bucket = config.origins["site"], config.origins["bucket"]
    assert isinstance(site, HttpOriginConfig)
    assert site.headers["X-Secret"].get_secret_value() == SECRET
    assert site.ca == site.client_certificate == folder / "certs/site.pem"
    assert (site.host, site.follow_redirects, site.total_timeout) == ("viewer", 2, 60)
    assert isinstance(bucket, S3OriginConfig)
    assert bucket.path_style is True
    assert config.origin_groups["main"].failover == (404, "timeout")
    policy = config.cache_policies["pages"]
    assert policy.query_strings == Selection(SelectionMode.EXCEPT, ("utm_source",))
    assert config.response_headers_policies["secure"].cors.max_age == 300
    assert config.limits.request_body == 1 << 30
    web = config.distributions[0]
    assert isinstance(web, WebDistributionConfig)
    assert web.error_pages[0].response_status == 200
    assert web.behaviors[0].methods[-1] == "DELETE"
    assert SECRET not in repr(config)


def test_defaults_of_web_limits_are_those_of_the_reference() -> None:
    limits = Config().limits
    assert (limits.request_body, limits.write_queue) == (50 << 30, 10 << 30)
    assert (limits.url, limits.ranges, limits.tls_handshake) == (8192, 8, 10)


def test_behavior_inherits_omitted_keys_from_its_distribution(folder: Path) -> None:
    web = read(folder, WHOLE).distributions[0]
    assert isinstance(web, WebDistributionConfig)
    api, texts = map(web.rules_for, web.behaviors)
    assert (api.origin, texts.origin) == ("site", "main")
    assert (api.response_headers_policy, texts.cache_policy) == ("secure", "pages")
    assert (api.compress, texts.compress) == (False, True)
    assert (texts.viewer_protocol, texts.methods) == ("allow-all", ("GET", "HEAD"))


def test_summary_shows_behaviors_and_policies_without_secrets(folder: Path) -> None:
    console = Console(file=StringIO(), width=240, markup=False)
    with console.capture() as captured:
        for table in summary(read(folder, WHOLE)):
            console.print(table)
    text = captured.get()
    for expected in (
        "https://127.0.0.1:8443",
        "redirect-to-https",
        "CachingDisabled",
        'query_strings = { except = ["utm_source"] }',
        'cors (origins = ["https://a.example"]',
        "404, timeout",
        "*.txt",
    ):
        assert expected in text
    assert SECRET not in text


FOLDER = '[origins.folder]\ntype = "directory"\npath = "media"\n'
SITE = '[origins.site]\ntype = "http"\nurl = "https://a.example"\n'
BUCKET = '[origins.s]\ntype = "s3"\nbucket = "b"\n'
WEB = FOLDER + '[[distributions]]\nid = "E"\ntype = "web"\norigin = "folder"\n'  # lines 1 to 7
BEHAVIOR = WEB + "[[distributions.behaviors]]\n"  # line 8
CERTIFICATE = '[[certificates]]\ncertificate = "certs/{}"\nkey = "certs/{}"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Unknown names.
        (
            WEB + 'cache_policy = "CachingOptimised"',
            "8: distributions[0].cache_policy: no policy"
            ' has the name "CachingOptimised"; did you mean "CachingOptimized"?',
        ),
        (
            BEHAVIOR + 'path = "a"\norigin = "foldr"',
            "10: distributions[0].behaviors[0].origin: no"
            ' origin has the name "foldr"; did you mean "folder"?',
        ),
        (
            BEHAVIOR + 'path = "a"\norigin_request_policy = "x"',
            "10: distributions[0].behaviors[0]."
            'origin_request_policy: no policy has the name "x"; known: "AllViewer"',
        ),
        (
            BEHAVIOR + 'path = "a"\ncompres = true',
            '10: distributions[0].behaviors[0].compres: unknown key; did you mean "compress"?',
        ),
        # Groups.
        (
            SITE + '[origin_groups.g]\norigins = ["site", "sit"]',
            '5: origin_groups.g.origins: no origin has the name "sit"; did you mean "site"?',
        ),
        (
            SITE + '[origin_groups.g]\norigins = ["site", "site"]',
            '5: origin_groups.g.origins: the origin "site" is listed twice',
        ),
        (
            SITE + FOLDER + '[origin_groups.site]\norigins = ["site", "folder"]',
            '7: origin_groups.site: an origin has the name "site" too',
        ),
        (
            SITE + '[origin_groups.g]\norigins = ["site"]',
            "5: origin_groups.g.origins: expected a list of strings (2 to 8 entries)",
        ),
        (
            SITE + FOLDER + '[origin_groups.g]\norigins = ["site", "folder"]\nfailover = [200]',
            '9: origin_groups.g.failover[0]: expected a status from 400 to 599, "connect" or',
        ),
        # Behaviors.
        (
            BEHAVIOR + f'path = "{"a" * 256}"',
            "9: distributions[0].behaviors[0].path: expected a string (at most 255 ",
        ),
        (
            BEHAVIOR + 'path = "/*"\n[[distributions.behaviors]]\npath = "a"',
            "11: distributions[0]."
            'behaviors[1].path: is never reached: the behavior "*" before it matches all',
        ),
        (
            BEHAVIOR + 'path = "/a"\n[[distributions.behaviors]]\npath = "a"',
            "11: distributions[0].behaviors[1].path: another behavior before it has the same path",
        ),
        (
            WEB + 'cache_policy = "CachingDisabled"\n[[distributions.behaviors]]\npath = "a"\n'
            'default_ttl = "1s"',
            "11: distributions[0].behaviors[0].default_ttl: has no effect",
        ),
        (
            WEB + "behaviors = 3",
            "8: distributions[0].behaviors: expected tables, each with the"
            " header [[distributions.behaviors]], found a number",
        ),
        (WEB + "behaviors = [3]", "8: distributions[0].behaviors[0]: expected tables, each with"),
        # Writes.
        (
            WEB + 'methods = ["GET", "PATCH"]',
            "8: distributions[0].methods: the origin"
            ' "folder" has the type "directory": PATCH is not supported',
        ),
        (WEB + 'methods = ["GET", "PUTT"]', "8: distributions[0].methods[1]: expected"),
        (
            SITE
            + '[origins.s]\ntype = "s3"\nbucket = "b"\n[[distributions]]\nid = "E"\ntype = "web"\n'
            'origin = "site"\nmethods = ["POST", "PATCH"]\n'
            '[[distributions.behaviors]]\npath = "a"\n'
            'origin = "s"',
            '14: distributions[0].behaviors[0].origin: the origin "s" has the type',
        ),
        (
            SITE
            + FOLDER
            + '[origin_groups.g]\norigins = ["folder", "site"]\n[[distributions]]\nid = "E"\n'
            'type = "web"\norigin = "g"\nmethods = ["POST"]',
            '13: distributions[0].methods: the origin "folder" has the type "directory": ',
        ),
        # Names that are never sent to a bucket.
        (
            BUCKET
            + '[cache_policies.p]\nquery_strings = { only = ["v", "acl"] }\n[[distributions]]\n'
            'id = "E"\ntype = "web"\norigin = "s"\ncache_policy = "p"',
            '10: distributions[0].cache_policy: the policy names "acl", which is never sent',
        ),
        (
            BUCKET + FOLDER + '[origin_groups.g]\norigins = ["folder", "s"]\n'
            '[origin_request_policies.p]\nheaders = ["Origin", "X-Amz-Acl"]\n[[distributions]]\n'
            'id = "E"\ntype = "web"\norigin = "folder"\norigin_request_policy = "p"\n'
            '[[distributions.behaviors]]\npath = "a"\norigin = "g"',
            '18: distributions[0].behaviors[0].origin: the policy names "X-Amz-Acl", which is',
        ),
        # HTTPS.
        (
            WEB + 'viewer_protocol = "https-only"',
            "8: distributions[0].viewer_protocol: no HTTPS listener",
        ),
        ('[listen]\nhttps = [":0"]', "2: listen.https: no certificate to show"),
        (
            '[listen]\nhttps = [":8080"]\nhttp = [":8080"]\n'
            + CERTIFICATE.format("site.pem", "site.key"),
            "2: listen.https[0]: 0.0.0.0:8080 is in use already, by listen.http",
        ),
        (
            CERTIFICATE.format("gone.pem", "site.key"),
            "2: certificates[0].certificate: expected a PEM file, found nothing at certs/gone.pem",
        ),
        (
            CERTIFICATE.format("n" * 300, "site.key"),
            f"2: certificates[0].certificate: expected a PEM file, but certs/{'n' * 300} cannot be"
            " read: File name too long",
        ),
        (
            CERTIFICATE.format("none.pem", "site.key"),
            "2: certificates[0].certificate: no certificate can be read in certs/none.pem",
        ),
        (
            CERTIFICATE.format("site.pem", "none.pem"),
            "3: certificates[0].key: no unencrypted key can be read in certs/none.pem",
        ),
        (
            CERTIFICATE.format("site.pem", "locked.key"),
            "3: certificates[0].key: no unencrypted key can be read in certs/locked.key",
        ),
        (
            CERTIFICATE.format("site.pem", "other.key"),
            "3: certificates[0].key: the key in certs/other.key is not the certificate's",
        ),
        (
            CERTIFICATE.format("", "site.key"),
            "2: certificates[0].certificate: expected a PEM file, found a folder at certs",
        ),
        # Origins.
        (SITE + 'client_certificate = "certs/site.pem"', "1: origins.site.client_key: missing"),
        (SITE + 'ca = "certs/none.pem"', "4: origins.site.ca: no certificate can be read"),
        (
            SITE.replace("https", "http") + "verify = false",
            "4: origins.site.verify: has no effect",
        ),
        (SITE + 'host = "http://x"', "4: origins.site.host: expected a string ("),
        (SITE + 'headers = { "Host" = "x" }', '4: origins.site.headers: the header "Host" is the'),
        # Policies.
        (
            "[cache_policies.AllViewer]\n[cache_policies.CachingDisabled]",
            '2: cache_policies.CachingDisabled: a managed policy has the name "CachingDisabled"',
        ),
        (
            '[cache_policies.a]\nmin_ttl = "2h"\nmax_ttl = "1h"',
            "2: cache_policies.a.min_ttl: is above max_ttl, 1h",
        ),
        (
            '[cache_policies.a]\ndefault_ttl = "2h"\nmax_ttl = "1h"',
            "2: cache_policies.a.default_ttl: is outside min_ttl to max_ttl, 0s to 1h",
        ),
        (
            '[cache_policies.a]\nheaders = ["Cookie"]',
            "2: cache_policies.a.headers: the header"
            ' "Cookie" is the edge\'s own; select them with the key "cookies"',
        ),
        (
            '[cache_policies.a]\nquery_strings = "some"',
            '2: cache_policies.a.query_strings: expected "none", "all", { only =',
        ),
        ("cache_policies = 3", "1: cache_policies: expected tables, each with a header such as"),
        (
            '[origin_request_policies.a]\nheaders = ["If-None-Match"]',
            "2: origin_request_policies.a.headers: the header",
        ),
        (
            '[response_headers_policies.a]\nremove = ["Content-Length"]',
            '2: response_headers_policies.a.remove: the header "Content-Length" is the edge\'s own',
        ),
        (
            '[response_headers_policies.a]\ncors = { origins = ["*"], credentials = true }',
            '2: response_headers_policies.a.cors.origins: "*" is not allowed with credentials',
        ),
        (
            "[response_headers_policies.a]\ncors = { colour = 1 }",
            "2: response_headers_policies.a.cors.colour: unknown key; known here: origins,",
        ),
        (
            "[response_headers_policies.a]\ncors = 3",
            "2: response_headers_policies.a.cors: expected"
            " a table, [response_headers_policies.a.cors], found a number",
        ),
        (
            "[response_headers_policies.a]\nserver_timing = 101",
            "2: response_headers_policies.a.server_timing: expected a number (0 to 100)",
        ),
        # Error pages.
        (
            WEB + "[[distributions.error_pages]]\nstatus = 200",
            "9: distributions[0].error_pages[0].status: expected a whole number (400 to 599)",
        ),
        (
            WEB + '[[distributions.error_pages]]\nstatus = 404\nresponse_status = 100\npath = "/a"',
            "10: distributions[0].error_pages[0].response_status: expected 0 or a status from 200",
        ),
        (
            WEB + "[[distributions.error_pages]]\nstatus = 404\nresponse_status = 200",
            "10: distributions[0].error_pages[0].response_status: has no effect without path",
        ),
        (
            WEB + 2 * "[[distributions.error_pages]]\nstatus = 404\n",
            "11: distributions[0].error_pages[1].status: another page replaces 404 already",
        ),
        (
            WEB + '[[distributions.error_pages]]\nstatus = 404\npath = "a"',
            '10: distributions[0].error_pages[0].path: expected a string (begins with "/"',
        ),
    ],
)
def test_mistake_is_reported_with_its_line_and_text(folder: Path, text: str, expected: str) -> None:
    (problem,) = problems(folder, text)
    assert problem.startswith(expected)


def test_mistakes_are_reported_together_without_secrets(folder: Path) -> None:
    text = WHOLE.replace('cache_policy = "pages"', 'cache_policy = "page"')
    text = text.replace('"main"', '"mian"').replace(f'"{SECRET}"', f'"{SECRET}\\n"')
    reported = problems(folder, text)
    assert len(reported) == 3
    assert SECRET not in "".join(reported)


def test_managed_policies_are_selected_by_name_and_by_id(folder: Path) -> None:
    assert {name for policies in MANAGED_POLICIES.values() for name in policies} == set(
        MANAGED_IDS.values()
    )
    for key, policies in POLICY_TABLES.items():
        for name in MANAGED_POLICIES[policies]:
            (identifier,) = (known_id for known_id, policy in MANAGED_IDS.items() if policy == name)
            for value in (name, identifier):
                assert read(folder, f'{WEB}{key} = "{value}"').distributions
