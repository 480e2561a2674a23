"""nginx-rtmp as a relay: it pulls a stream, as a player would, and records what it receives."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.patience import PATIENCE_S
from tests.support.process.ports import free_ports

MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")


@dataclass(frozen=True)
class NginxRelay:
    """``folder`` is nginx's prefix; ``url`` is where it serves the stream."""

    folder: Path
    url: str

    @property
    def errors(self) -> str:
        """The error log so far."""
        return (self.folder / "error.log").read_text()

    @property
    def recording(self) -> Path:
        """The FLV that was received so far."""
        return self.folder / "recordings" / "relay.flv"


@contextlib.contextmanager
def run_nginx_relay(folder: Path, port: int, application: str, name: str) -> Iterator[NginxRelay]:
    """Runs nginx, which pulls the stream ``name`` of a server on ``port`` at once."""
    folder.mkdir()
    (folder / "recordings").mkdir()
    (relay_port,) = free_ports(1)
    config = folder / "nginx.conf"
    config.write_text(
        f"load_module {MODULE};\ndaemon off;\nuser root;\npid {folder}/nginx.pid;\n"
        f"error_log {folder}/error.log info;\nevents {{}}\n"
        f"rtmp {{\n access_log off;\n server {{\n  listen 127.0.0.1:{relay_port};\n"
        "  application live {\n   live on;\n   record all;\n"
        f"   record_path {folder}/recordings;\n"
        f"   pull rtmp://127.0.0.1:{port} app={application} playPath={name} name=relay static;\n"
        "  }\n }\n}\n"
    )
    process = subprocess.Popen(
        ["/usr/sbin/nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield NginxRelay(folder, f"rtmp://127.0.0.1:{relay_port}/live/relay")
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
