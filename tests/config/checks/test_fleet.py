"""Checks of the keys of a fleet, and of its certificate files."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamedge.cli.config_summary import summary
from streamedge.config.load import load
from streamedge.config.schema.config import Config
from streamedge.errors import ConfigError
from tests.support.certificate_authority import CertificateAuthority

ENGINE = '[fleet]\nengine = "redis://127.0.0.1:6379/0"\n'
ALONE = f'[edge]\nname = "fra-1"\n{ENGINE}'
FILES = 'ca = "ca.pem"\ncertificate = "fra-1.pem"\nkey = "fra-1.key"\n'
S3 = '[origins.films]\ntype = "s3"\nbucket = "films"\n'


def load_text(folder: Path, text: str) -> Config:
    path = folder / "config.toml"
    path.write_text(text)
    return load(path)


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_text(folder, text)
    return [problem.removeprefix(f"{folder}/config.toml:") for problem in raised.value.problems]


def issue(folder: Path, *names: str, ca: str = "ca.pem") -> CertificateAuthority:
    """Makes ca.pem, fra-1.pem and fra-1.key in a folder."""
    authority = CertificateAuthority(folder)
    pair = authority.issue(*names)
    authority.root.rename(folder / ca)
    pair.certificate.rename(folder / "fra-1.pem")
    pair.key.rename(folder / "fra-1.key")
    return authority


def test_edge_of_a_tier_loads_and_its_paths_become_absolute(tmp_path: Path) -> None:
    issue(tmp_path, "FRA-1")
    text = (
        f'{ALONE}{FILES}[fleet.tiers]\neu = ["fra-1", "ams-1"]\n'
        f'[listen]\nfleet = "127.0.0.1:7443"\n{S3}tier = "eu"\n'
    )
    fleet = load_text(tmp_path, text).fleet
    assert (fleet.ca, fleet.certificate, fleet.key) == (
        tmp_path / "ca.pem",
        tmp_path / "fra-1.pem",
        tmp_path / "fra-1.key",
    )


@pytest.mark.parametrize("name", ["", '[edge]\nname = "local"\n'])
def test_edge_of_a_fleet_needs_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    [problem] = mistakes(tmp_path, name + ENGINE)
    assert "edge.name: expected a name that no other edge of the fleet has" in problem


@pytest.mark.parametrize(
    "engine",
    [
        "redis://:hunter2@host:99999/0",
        "redis://:hunter2@host:port/0",
        "redis://:hunter2@host/a",
        "redis://:hunter2@[::1",
        "redis://user:hun/ter2@host/0",
        "redis://user:hunter2@/0",
    ],
)
def test_engine_url_that_cannot_be_used_is_reported_without_its_password(
    tmp_path: Path, engine: str
) -> None:
    [problem] = mistakes(tmp_path, ALONE.replace("redis://127.0.0.1:6379/0", engine))
    assert problem.startswith("4: fleet.engine: expected a host, a port and a database number")
    assert "hun" not in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"{ALONE}{FILES}[fleet.tiers]\neu = []\n",
            "fleet.tiers.eu: expected the name of at least one edge",
        ),
        (
            f'{ALONE}{FILES}[fleet.tiers]\neu = ["ams-1", "ams-1"]\n',
            'fleet.tiers.eu: "ams-1" is in this tier twice',
        ),
        (
            f'{ALONE}{FILES}[fleet.tiers]\neu = ["fra-1"]\n',
            'listen.fleet: missing; tier "eu" names this edge',
        ),
        (f'{ALONE}{FILES}{S3}tier = "eu"\n', "known under [fleet.tiers]: none"),
        (
            f'{ALONE}{FILES}[fleet.tiers]\neurope = ["ams-1"]\n{S3}tier = "erope"\n',
            'origins.films.tier: no tier has the name "erope"; did you mean "europe"?',
        ),
        (
            f'{ALONE}{FILES}[fleet.tiers]\neu = ["ams-1"]\n'
            '[origins.here]\ntype = "directory"\npath = "."\ntier = "eu"\n',
            "origins.here.tier: a folder of this machine has no tier",
        ),
        (
            f'{ALONE}{FILES}[fleet.tiers]\neu = ["ams-1"]\n'
            f'[origins.here]\ntype = "directory"\npath = "."\n{S3}'
            '[origin_groups.both]\norigins = ["films", "here"]\ntier = "eu"\n',
            'origin_groups.both.tier: "here" is a folder of this machine',
        ),
        (
            f'[edge]\nname = "fra-1"\n[fleet]\n{FILES}[fleet.tiers]\neu = ["ams-1"]\n',
            "fleet.engine: missing; the edges of a tier find each other by it",
        ),
        (
            f'[edge]\nname = "fra-1"\n[listen]\nfleet = "127.0.0.1:7443"\n[fleet]\n{FILES}',
            "fleet.engine: missing; listen.fleet serves the edges that share it",
        ),
        (
            f'{ALONE}{FILES}[listen]\nfleet = "127.0.0.1:7443"\nadmin = ":7443"\n',
            "listen.fleet: 127.0.0.1:7443 is in use already, by listen.admin",
        ),
    ],
)
def test_mistake_of_a_fleet_is_reported(tmp_path: Path, text: str, expected: str) -> None:
    issue(tmp_path, "fra-1")
    problems = mistakes(tmp_path, text)
    assert len(problems) == 1
    assert expected in problems[0]


@pytest.mark.parametrize(
    "need", ['[listen]\nfleet = "127.0.0.1:7443"\n', '[fleet.tiers]\neu = ["ams-1"]\n']
)
def test_tiers_and_the_fleet_listener_need_three_files(tmp_path: Path, need: str) -> None:
    problems = mistakes(tmp_path, ALONE + need)
    assert [problem.split(": ")[1] for problem in problems] == [
        "fleet.ca",
        "fleet.certificate",
        "fleet.key",
    ]
    assert all("streamedge fleet certificate NAME --ca fleet-ca.pem" in one for one in problems)


def test_missing_fleet_files_are_reported(tmp_path: Path) -> None:
    problems = mistakes(tmp_path, ALONE + FILES)
    assert [problem.split(": ")[1:3] for problem in problems] == [
        ["fleet.ca", f"expected a PEM file, found nothing at {tmp_path}/ca.pem"],
        ["fleet.certificate", f"expected a PEM file, found nothing at {tmp_path}/fra-1.pem"],
        ["fleet.key", f"expected a PEM file, found nothing at {tmp_path}/fra-1.key"],
    ]


def test_key_of_another_certificate_is_reported(tmp_path: Path) -> None:
    authority = issue(tmp_path, "fra-1")
    authority.issue("fra-1").key.rename(tmp_path / "fra-1.key")
    [problem] = mistakes(tmp_path, ALONE + FILES)
    assert problem.endswith("fra-1.key is not the certificate's")


@pytest.mark.parametrize("names", [(), ("ams-1", "www.fra-1")])
def test_certificate_for_another_name_is_reported(tmp_path: Path, names: tuple[str, ...]) -> None:
    issue(tmp_path, *names)
    [problem] = mistakes(tmp_path, ALONE + FILES)
    assert 'fleet.certificate: expected a certificate for the DNS name "fra-1"' in problem
    assert "streamedge fleet certificate fra-1" in problem


def test_certificate_of_another_ca_is_reported(tmp_path: Path) -> None:
    issue(tmp_path, "fra-1", ca="other.pem")
    CertificateAuthority(tmp_path).root.rename(tmp_path / "ca.pem")
    [problem] = mistakes(tmp_path, ALONE + FILES)
    assert problem.endswith(f"the CA in {tmp_path}/ca.pem has not signed this certificate")


def test_summary_shows_the_engine_without_its_password(tmp_path: Path) -> None:
    text = ALONE.replace("redis://", "redis://edge:hunter2@")
    config = load_text(tmp_path, text)
    cells = [
        str(cell) for table in summary(config) for column in table.columns for cell in column.cells
    ]
    assert "redis://127.0.0.1:6379/0" in cells
    assert not any("hunter2" in cell for cell in cells)


def test_mistakes_of_the_file_show_no_password(tmp_path: Path) -> None:
    text = ALONE.replace("redis://", "redis://edge:hunter2@").replace("/0", "/0?db=1")
    assert not any("hunter2" in problem for problem in mistakes(tmp_path, text))
