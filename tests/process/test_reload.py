"""SIGHUP: a good file becomes the next generation, a bad one changes nothing and says why."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamedge.access.geo import Countries
from streamedge.config.load import load
from streamedge.coordination.config_versions import Generations, Outcome
from streamedge.coordination.wakeups import Bells
from streamedge.ops.log import open_log
from streamedge.process.certificates import CertificateFiles, Certificates
from streamedge.process.reload import Reloading
from tests.support.certificate_authority import CertificateAuthority, Pair

ORIGIN = '[origins.main]\ntype = "directory"\npath = "media"\n'
WEB = '[[distributions]]\nid = "EWEB"\ntype = "web"\norigin = "main"\n'
GOOD = ORIGIN + WEB


@dataclass(slots=True)
class Edge:
    """What a supervisor has, and the file that it reads."""

    file: Path
    generations: Generations
    reloading: Reloading
    log: Path
    bells: Bells
    countries: Countries

    def reload(self, text: str) -> Outcome:
        self.file.write_text(text)
        asked = self.generations.ask()
        self.reloading.reload()
        outcome = self.generations.outcome(asked)
        assert outcome is not None
        return outcome

    def lines(self, event: str) -> list[dict[str, Any]]:
        said = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in said if line["event"] == event]


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    yield from running(tmp_path, GOOD, None)


def running(folder: Path, text: str, certificates: Certificates | None) -> Iterator[Edge]:
    (folder / "media").mkdir(exist_ok=True)
    file = folder / "config.toml"
    file.write_text(text)
    log = open_log(str(folder / "log"), "supervisor")
    generations, bells = Generations(load(file), 1), Bells(1)
    countries = Countries(None)
    reloading = Reloading(file, generations, certificates, countries, bells, log)
    yield Edge(file, generations, reloading, folder / "log", bells, countries)
    generations.close()
    bells.close()
    log.close()


def test_a_good_file_is_the_next_generation_and_rings(edge: Edge) -> None:
    outcome = edge.reload(GOOD + WEB.replace("EWEB", "E2") + 'aliases = ["b.example"]\n')
    assert outcome == Outcome(1, (), ("distributions.E2",), ())
    number, config = edge.generations.read()
    assert number == 1
    assert [each.id for each in config.distributions] == ["EWEB", "E2"]
    assert edge.generations.config is config
    assert os.eventfd_read(edge.bells._bells[0]) == 1
    assert os.eventfd_read(edge.bells._bells[edge.bells.control]) == 1
    (line,) = edge.lines("config_loaded")
    assert (line["generation"], line["changed"]) == (1, ["distributions.E2"])


def test_a_bad_file_changes_nothing_and_says_why(edge: Edge) -> None:
    before = edge.generations.read()
    outcome = edge.reload(GOOD.replace('"main"', '"mian"') + "[limits]\nurl = true\nx = 1\n")
    assert outcome.generation == 0
    assert [problem.split(": ")[1] for problem in outcome.problems] == [
        "distributions[0].origin",
        "limits.url",
        "limits.x",
    ]
    assert edge.generations.read() == before
    (line,) = edge.lines("config_refused")
    assert line["mistakes"] == list(outcome.problems)
    assert os.eventfd_read(edge.bells._bells[edge.bells.control]) == 1  # who asked is told


def test_a_file_that_is_gone_changes_nothing(edge: Edge) -> None:
    edge.file.unlink()
    edge.reloading.reload()
    assert edge.generations.number == 0
    assert "cannot be read" in edge.lines("config_refused")[0]["mistakes"][0]


def test_what_needs_a_restart_is_named_in_the_log_and_the_rest_is_in_force(edge: Edge) -> None:
    outcome = edge.reload("[edge]\nworkers = 7\n[limits]\nurl = 4096\n" + GOOD)
    assert outcome.needs_restart == ("edge.workers",)
    assert edge.lines("config_needs_restart")[0]["keys"] == ["edge.workers"]
    config = edge.generations.config
    assert (config.edge.workers, config.limits.url) == (0, 4096)


def test_a_file_without_changes_is_read_all_the_same(edge: Edge) -> None:
    assert edge.reload(GOOD) == Outcome(1)
    assert edge.reload(GOOD) == Outcome(2)


def test_a_new_key_in_the_old_file_is_a_change(edge: Edge, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    def put() -> None:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "key.pem").write_bytes(pem)

    put()
    text = '[public_keys.K1]\nfile = "key.pem"\n' + GOOD
    assert edge.reload(text).changed == ("public_keys.K1",)
    assert edge.reload(text).changed == ()
    put()
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


def test_certificates_are_taken_over_but_none_of_a_file_with_mistakes(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    one, other = authority.issue("a.example"), authority.issue("b.example")
    certificates = Certificates([CertificateFiles(one.certificate, one.key)])
    for edge in running(tmp_path, tables(one), certificates):
        first = certificates.context_for(None)
        assert edge.reload(tables(other, one) + "x = 1\n").problems
        assert certificates.context_for("b.example") is first
        assert edge.reload(tables(one, other)).changed == ("certificates",)
        assert certificates.context_for("b.example") is not certificates.context_for("a.example")
        assert edge.reload(tables(one)).changed == ("certificates",)
        assert certificates.context_for("b.example") is certificates.context_for("a.example")
