"""Journeys: runs every command of the guide "Moving from CloudFront" in its order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.media.media_samples import SAMPLES
from tests.support.origins.s3_server import S3Server
from tests.support.patience import PATIENCE_S
from tests.support.process.edge_process import EdgeProcess, run_edge
from tests.support.rtmp.rtmp_players import duration_s

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "moving-from-cloudfront.md").read_text()
FILM = SAMPLES / "film.mp4"


def blocks(language: str) -> list[str]:
    """The guide's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def config_of(s3: S3Server) -> str:
    """The guide's config, from its origins on, with the test bucket's address."""
    _, _, origins = blocks("toml")[0].partition("[origins.videos]")
    address = (
        f'endpoint = "{s3.endpoint}"\naccess_key_id = "{s3.access_key_id}"\n'
        f'secret_access_key = "{s3.secret_access_key}"\nregion = "{s3.region}"\n'
    )
    return "[origins.videos]" + re.sub(r"region = .*\n", lambda _: address, origins, count=1)


def commands(folder: Path) -> str:
    """A PATH with the commands that the guide uses."""
    tools = folder / "tools"
    tools.mkdir()
    for name, module in (("aws", "awscli"), ("streamedge", "streamedge")):
        command = tools / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        command.chmod(0o755)
    return f"{tools}:{os.environ['PATH']}"


def run_guide(edge: EdgeProcess) -> list[list[str]]:
    """Runs the guide's commands in the edge's folder; returns the lines of each block."""
    script = "set -euo pipefail\n" + "".join(f"{one}\necho ---\n" for one in blocks("sh"))
    script = script.replace("127.0.0.1:9090", f"127.0.0.1:{edge.admin_port}")
    script = script.replace("127.0.0.1:8080", f"127.0.0.1:{edge.http_port}")
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=edge.folder,
        env={
            "PATH": commands(edge.folder),
            "HOME": str(edge.folder),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        check=False,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert result.returncode == 0, f"{result.stdout}{result.stderr}"
    return [part.strip().splitlines() for part in result.stdout.split("---\n")]


@pytest.fixture
def edge_folder(tmp_path: Path) -> Path:
    """A folder with the key pair of the guide."""
    private = rsa.generate_private_key(65537, 2048)
    (tmp_path / "private.pem").write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    (tmp_path / "public.pem").write_bytes(
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return tmp_path


async def test_guide_works_command_by_command(edge_folder: Path, s3: S3Server) -> None:
    s3.put("videos", "film.mp4", FILM.read_bytes(), content_type="video/mp4")
    with run_edge(edge_folder, config_of(s3), workers=2, distributions="\n") as edge:
        outputs = run_guide(edge)
        whole = f"200 {FILM.stat().st_size}"
        unsigned, by_aws, by_edge = outputs[4], outputs[5], outputs[6]
        assert unsigned == ["403"]
        assert by_aws == by_edge == [whole]
        assert (edge_folder / "film.mp4").read_bytes() == FILM.read_bytes()
        assert outputs[-2][0] == "Deployed"
        assert any("rtmp" in line for line in outputs[-2])
        assert await duration_s(edge.rtmp("mp4:film.mp4")) > 1


def test_second_config_of_the_guide_is_valid(edge_folder: Path) -> None:
    from streamedge.config.load import load

    first, second = blocks("toml")
    (edge_folder / "config.toml").write_text(first + second)
    config = load(edge_folder / "config.toml")
    assert list(config.key_groups["viewers"].keys) == ["K2JCJMDEHXQW5F"]
