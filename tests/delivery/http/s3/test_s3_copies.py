"""Copy requests of S3 clients: they are refused, not handled as writes of an empty object."""

from __future__ import annotations

from pathlib import Path

from tests.support.http.http_viewer import fetch
from tests.support.http.web_edge import serve_web


async def test_s3_copy_is_refused_and_changes_nothing(cache_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "kept.txt").write_text("kept")
    async with serve_web(
        cache_root,
        rules={"origin": "folder", "methods": ["GET", "HEAD", "PUT", "DELETE"]},
        tables={"origins": {"folder": {"type": "directory", "path": str(folder)}}},
    ) as edge:
        response = await fetch(
            edge.port,
            "/kept.txt",
            "PUT",
            content_length="0",
            x_amz_copy_source="/folder/other.txt",
        )
    assert response.status == 501
    assert b"NotImplemented" in response.body
    assert (folder / "kept.txt").read_text() == "kept"
