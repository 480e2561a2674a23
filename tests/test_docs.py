"""The documents match the code: rows of tables, configs, commands and links.

Tables under ``<!-- checked: NAME -->`` are read row by row. Their phrases are keys of the
dictionaries below, so a row with an unknown phrase fails.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from streamedge.build.web import ttl_rules
from streamedge.build.web_rules import error_pages, web_behaviors
from streamedge.cache.rfc9111.freshness import TtlRules, initial_age_s, lifetime_s
from streamedge.cache.rfc9111.reuse import Reuse, decide_absent, decide_reuse, may_serve_on_error
from streamedge.cache.rfc9111.storing import is_storable
from streamedge.cli import reference as command_reference
from streamedge.cli.command_tree import option_names
from streamedge.cli.fleet.certificates import make_certificate
from streamedge.config.load import load
from streamedge.config.schema.config import WebDistributionConfig
from streamedge.delivery.http.policy.behaviors import choose_behavior
from tests.support.certificate_authority import CertificateAuthority
from tests.support.http.signers import rsa_signer
from tests.support.mmdb_file import country, mmdb
from tests.test_project import top_level_imports

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "streamedge"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TTL = (ROOT / "docs" / "reference" / "http-caching.md").read_text()

NOW_S = 1_700_000_000.0
STATED_S = 600
UNCHANGED_S = 50_000
HOUR_S = 3600

# Policies in which every bound applies once.
DEFAULT_RULES = [
    TtlRules(),
    TtlRules(max_ttl_s=100.0, default_ttl_s=50.0),
    TtlRules(max_ttl_s=100.0, default_ttl_s=200.0, error_ttl_s=30.0),
    TtlRules(error_ttl_s=HOUR_S),
]
RULES_WITH_MIN = [
    TtlRules(min_ttl_s=10.0),
    TtlRules(min_ttl_s=2_000.0, default_ttl_s=5_000.0),
    TtlRules(min_ttl_s=200_000.0),
    TtlRules(min_ttl_s=20.0, default_ttl_s=50.0, max_ttl_s=100.0),
]
STRICT_RULES = [replace(rules, strict=True) for rules in [*DEFAULT_RULES, *RULES_WITH_MIN]]

Fields = dict[str, str]
Expected = Callable[[TtlRules], float | None]

LIFETIMES: dict[str, Expected] = {
    "not stored": lambda rules: None,
    "stored, validated before each use": lambda rules: 0.0,
    "N, at most `max_ttl`": lambda rules: min(STATED_S, rules.max_ttl_s),
    "N, at least `min_ttl`, at most `max_ttl`": lambda rules: _bounded(STATED_S, rules),
    "`default_ttl`, at most `max_ttl`": lambda rules: min(rules.default_ttl_s, rules.max_ttl_s),
    "`default_ttl`, at least `min_ttl`, at most `max_ttl`": lambda rules: _bounded(
        rules.default_ttl_s, rules
    ),
    "`min_ttl`": lambda rules: rules.min_ttl_s,
    "A/10, at most 24 h, at least `min_ttl`, at most `max_ttl`": lambda rules: _bounded(
        min(UNCHANGED_S / 10, 24 * HOUR_S), rules
    ),
    "`error_ttl`": lambda rules: rules.error_ttl_s,
    "N, at most `max_ttl`, at least `error_ttl`": lambda rules: max(
        min(STATED_S, rules.max_ttl_s), rules.error_ttl_s
    ),
}
REUSES = {
    "validated first": Reuse.VALIDATE,
    "a validated response": Reuse.VALIDATE,
    "the stale response, validated meanwhile": Reuse.STALE_WHILE_REVALIDATE,
    "504": Reuse.GATEWAY_TIMEOUT,
}


def _bounded(seconds: float, rules: TtlRules) -> float:
    return max(min(seconds, rules.max_ttl_s), rules.min_ttl_s)


def _table(name: str) -> list[list[str]]:
    """The rows of a checked table, its head left out."""
    _, mark, rest = TTL.partition(f"<!-- checked: {name} -->\n\n")
    assert mark, f"docs/reference/http-caching.md has no table {name}"
    lines = rest.partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def _rows(name: str) -> pytest.MarkDecorator:
    rows = _table(name)
    assert rows
    return pytest.mark.parametrize("row", rows, ids=[" ".join(row[:2]) for row in rows])


def _quoted(cell: str) -> list[str]:
    """The texts between backquotes."""
    return re.findall(r"`([^`]*)`", cell)


def _fields(lines: list[str], stated_s: int = STATED_S, age_s: int = 0) -> Fields:
    """Header fields of a row; ``Date`` is that of a response generated ``age_s`` ago."""
    date_s = NOW_S - age_s
    fields = {"date": formatdate(date_s, usegmt=True)}
    for line in lines:
        name, _, value = line.partition(": ")
        value = re.sub(r"=N\b", f"={stated_s}", value)
        if match := re.fullmatch(r"(\w+) (from|before) Date", value):
            seconds = {"N": stated_s, "A": UNCHANGED_S}.get(match[1]) or int(match[1])
            sign = 1 if match[2] == "from" else -1
            value = formatdate(date_s + sign * seconds, usegmt=True)
        fields[name.lower()] = value
    return fields


def _fresh_s(status: int, fields: Fields, rules: TtlRules) -> float | None:
    """For how long a response that has just arrived is fresh; None: it is not stored."""
    if status == 206:
        fields = {**fields, "content-range": "bytes 0-9/100"}
    if not is_storable("GET", {}, status, fields, rules):
        return None
    return max(0.0, lifetime_s(status, fields, rules, NOW_S) - initial_age_s(fields, NOW_S, NOW_S))


# docs/reference/http-caching.md


@_rows("lifetimes")
@pytest.mark.parametrize("age_s", [0, 100])
def test_fresh_time_of_a_200_is_that_of_the_table(row: list[str], age_s: int) -> None:
    sent, without_min, with_min, strict = row
    lines = [] if sent == "nothing" else _quoted(sent)
    # N is less the Age, so an older response with a longer max-age has the same lifetime.
    fields = _fields(lines, STATED_S + age_s, age_s) | ({"age": str(age_s)} if age_s else {})
    for phrase, all_rules in (
        (without_min, DEFAULT_RULES),
        (with_min, RULES_WITH_MIN),
        (strict, STRICT_RULES),
    ):
        for rules in all_rules:
            if "last-modified" in fields and rules.strict and age_s:
                continue  # the heuristic counts from Date
            assert _fresh_s(200, fields, rules) == LIFETIMES[phrase](rules), rules


@_rows("statuses")
def test_fresh_time_of_other_statuses_is_that_of_the_table(row: list[str]) -> None:
    statuses, nothing, stated, strict_nothing, strict_stated = row
    default_rules = [*DEFAULT_RULES, *RULES_WITH_MIN]
    for phrase, lines, all_rules in (
        (nothing, [], default_rules),
        (stated, ["Cache-Control: max-age=N"], default_rules),
        (strict_nothing, [], STRICT_RULES),
        (strict_stated, ["Cache-Control: max-age=N"], STRICT_RULES),
    ):
        fields = _fields(lines)
        for status in map(int, statuses.split(", ")):
            for rules in all_rules:
                expected = (
                    _fresh_s(200, fields, rules)
                    if phrase == "as above"
                    else LIFETIMES[phrase](rules)
                )
                assert _fresh_s(status, fields, rules) == expected, (status, rules)


@_rows("stale")
def test_stale_responses_are_used_as_in_the_table(row: list[str]) -> None:
    sent, *expected = row
    rules = TtlRules(strict="strict" in _quoted(sent))
    fields = _fields([f"Cache-Control: {_quoted(sent)[0]}"])
    ages_s = [STATED_S + 10.0, STATED_S + float(HOUR_S)]
    for age_s, reachable, failing in zip(ages_s, expected[:2], expected[2:], strict=True):
        decision = decide_reuse(
            200, fields, rules, response_s=NOW_S, age_s=age_s, request_fields={}
        )
        assert decision is REUSES[reachable]
        served = may_serve_on_error(
            200, fields, rules, response_s=NOW_S, age_s=age_s, request_fields={}
        )
        assert served == {"the stale response": True, "the error": False}[failing]


@_rows("viewers")
def test_viewers_directives_have_the_effect_of_the_table(row: list[str]) -> None:
    sent, stored, result = row
    request = _fields(_quoted(sent))
    if stored == "nothing":
        assert decide_absent(request) is REUSES[result]
        return
    match = re.fullmatch(r"`([^`]*)`, (\d+) s old", stored)
    assert match is not None
    decision = decide_reuse(
        200,
        _fields([f"Cache-Control: {match[1]}"]),
        TtlRules(),
        response_s=NOW_S,
        age_s=float(match[2]),
        request_fields=request,
    )
    if result == "the stored response":
        assert decision in {Reuse.FRESH, Reuse.STALE}
    else:
        assert decision is REUSES[result]


@_rows("storing")
def test_responses_are_stored_as_in_the_table(row: list[str]) -> None:
    request, response, *expected = row
    method, *request_lines = _quoted(request)
    status, *response_lines = _quoted(response)
    for strict, phrase in zip((False, True), expected, strict=True):
        stored = is_storable(
            method,
            _fields(request_lines),
            int(status),
            _fields(response_lines),
            TtlRules(strict=strict),
        )
        assert stored == {"stored": True, "not stored": False}[phrase]


def _examples(folder: Path) -> dict[str, TtlRules]:
    """The rules of the paths in the table of examples, by the page's own config."""
    (folder / "config.toml").write_text(next(b for b in _toml_blocks(TTL) if _is_whole(b)))
    config = load(folder / "config.toml")
    distribution = config.distributions[0]
    assert isinstance(distribution, WebDistributionConfig)
    behaviors, pages = web_behaviors(config, distribution), error_pages(distribution)
    return {
        path: ttl_rules(choose_behavior(behaviors, path).cache, pages)
        for row in _table("examples")
        for path in _quoted(row[0])
    }


def test_fresh_time_of_the_examples_is_that_of_the_table(tmp_path: Path) -> None:
    rules = _examples(tmp_path)
    for path, response, expected in _table("examples"):
        status, *lines = _quoted(response)
        fields = _fields(lines)
        fresh_s = _fresh_s(int(status), fields, rules[_quoted(path)[0]])
        actual = "not stored" if fresh_s is None else f"{fresh_s:g} s"
        assert actual == expected, (path, response)


# All documents


def _toml_blocks(text: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def _is_whole(block: str) -> bool:
    """Whether a block is a whole config, not an excerpt."""
    return "[[distributions]]" in block and "[origins." in block


def _configs() -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        blocks = _toml_blocks(document.read_text())
        # An excerpt is read along with the smallest config that could hold it.
        smallest = (
            '[origins.samples]\ntype = "directory"\npath = "media"\n'
            '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "samples"\n'
        )
        for number, block in enumerate(blocks, 1):
            whole = block if _is_whole(block) else f"{block}\n{smallest}"
            yield f"{document.relative_to(ROOT)}-{number}", whole


@pytest.mark.parametrize(
    "config", [text for _, text in _configs()], ids=[name for name, _ in _configs()]
)
def test_configs_in_documents_load(config: str, tmp_path: Path) -> None:
    for name in re.findall(r'^path = "([a-z]+)"', config, re.MULTILINE):
        (tmp_path / name).mkdir()
    for name in re.findall(r'"certs/([^"]*)\.pem"', config):
        pair = CertificateAuthority(tmp_path).issue("edge.example")
        (tmp_path / "certs").mkdir(exist_ok=True)
        pair.certificate.replace(tmp_path / "certs" / f"{name}.pem")
        pair.key.replace(tmp_path / "certs" / f"{name}.key")
    for name in re.findall(r'^certificate = "([a-z0-9-]+)\.pem"', config, re.MULTILINE):
        make_certificate(name, tmp_path / "fleet-ca.pem", days=1)
    for name in re.findall(r'^file = "([^"]*)"', config, re.MULTILINE):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(rsa_signer().public_pem)
    for name in re.findall(r'^database = "([^"]*)"', config, re.MULTILINE):
        (tmp_path / name).write_bytes(mmdb({"192.0.2.0/24": country("DE")}))
    (tmp_path / "config.toml").write_text(config)
    load(tmp_path / "config.toml")


DOCUMENT_IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
COMMANDS = dict(command_reference.commands())
PACKAGE_FILES = re.compile(r"`((?:streamedge|tests|bench|tools|media)?[\w/]*/\w+\.py|[\w/]+/)`")


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|^    [^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)


def _anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", _without_code(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _command_lines(text: str) -> Iterator[str]:
    """Lines of code blocks and spans that call ``streamedge`` or ``make``."""
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).splitlines() + re.findall(r"^    (.*)$", text, re.MULTILINE)
    for line in lines + re.findall(r"`([^`\n]*)`", text):
        for command in re.split(r"\$\(", line.partition(" #")[0]):
            if re.match(r"(\S*/)?streamedge |make [a-z]", command.strip()):
                yield command.strip().rstrip(')"')


@pytest.mark.parametrize("document", DOCUMENTS, ids=DOCUMENT_IDS)
def test_links_between_documents_lead_to_a_file_and_a_heading(document: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", document.read_text())
    for target, anchor in links:
        file = document.parent / target if target else document
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), f"{target}#{anchor}"


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (document.parent / target).resolve()
        for document in DOCUMENTS
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text())
    }
    pages = {path for path in DOCUMENTS if path != ROOT / "README.md"}
    assert pages - linked == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=DOCUMENT_IDS)
def test_commands_in_documents_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in _command_lines(document.read_text()):
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets, line
            continue
        name = "streamedge"
        for word in words[1:]:
            if f"{name} {word}" not in COMMANDS:
                break
            name = f"{name} {word}"
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert name != "streamedge" or words[1].startswith(("-", "[")), line
        assert options <= option_names(COMMANDS[name]), line


def test_readme_is_short_and_names_the_first_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert {"make run", "make test"} <= {
        line.strip().partition("  ")[0] for line in text.splitlines()
    }


@pytest.mark.parametrize(
    "document",
    [ROOT / "ARCHITECTURE.md", *(ROOT / "docs" / "development").glob("*.md")],
    ids=lambda path: str(path.name),
)
def test_files_of_the_code_that_pages_name_exist(document: Path) -> None:
    for name in PACKAGE_FILES.findall(document.read_text()):
        assert (ROOT / name).exists() or (PACKAGE / name).exists(), name


def _defined_names(tree: ast.Module | ast.ClassDef, prefix: str = "") -> set[str]:
    """What a module defines: ``function``, ``CONSTANT``, ``Class``, ``Class.method``."""
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(prefix + name)
            case ast.ClassDef(name=name):
                names |= {prefix + name, *_defined_names(node, f"{prefix}{name}.")}
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(prefix + name)
    return names


def _code_places(text: str) -> list[tuple[str, str]]:
    """File and name of each ``file.py::name`` between backquotes."""
    return re.findall(r"`([\w/]+\.py)::([\w.]+)`", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=DOCUMENT_IDS)
def test_functions_that_pages_name_exist(document: Path) -> None:
    for file, name in _code_places(document.read_text()):
        defined = _defined_names(ast.parse((PACKAGE / file).read_text()))
        assert name in defined, f"{file}::{name}"


def test_each_question_of_the_architecture_has_a_place_in_the_code() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("## Where to look\n")[2]
    rows = re.findall(r"^\| (.*\?) \| (.*) \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert len(rows) > 20
    assert [question for question, answer in rows if not _code_places(answer)] == []


def test_defined_names_are_those_of_functions_classes_methods_and_constants() -> None:
    tree = ast.parse(
        "A = 1\nB: int = 2\ndef f(): C = 3\nclass D:\n    e = 4\n    def g(self): ...\n"
    )
    assert _defined_names(tree) == {"A", "B", "f", "D", "D.e", "D.g"}


def test_dependencies_are_imported_where_the_architecture_says() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text().partition("## Dependencies\n")[2]
    places: dict[str, list[str]] = {}
    for packages, files in re.findall(r"^\| ([a-z][^|]*) \| ([^|]*) \|", text, re.MULTILINE):
        for package in packages.split(", "):
            places[package.replace("-", "_")] = re.findall(r"`([^`]*)`", files)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=]", name)[0].replace("-", "_") for name in project["dependencies"]}
    assert declared <= set(places)
    for file in sorted(PACKAGE.rglob("*.py")):
        path = str(file.relative_to(PACKAGE))
        for package in top_level_imports(ast.parse(file.read_text())) & set(places):
            assert path.startswith(tuple(places[package])), f"{path} imports {package}"


def test_layers_of_the_architecture_are_those_of_the_import_contract() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    listed = text.partition("packages on one line do not import each other):\n\n")[2]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {
        contract["name"]: contract for contract in project["tool"]["importlinter"]["contracts"]
    }
    layers = contracts["bytes go up, imports go down"]["layers"]
    assert [line.strip() for line in listed.partition("\n\n")[0].splitlines()] == [
        layer.replace("streamedge.", "") for layer in layers
    ]


def test_architecture_describes_each_folder_of_the_package() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    described = set(re.findall(r"^\| `([\w/]+)/` \|", text, re.MULTILINE))
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert len(folders) > 10
    assert folders - described == set()
