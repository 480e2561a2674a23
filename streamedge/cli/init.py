"""``streamedge init``: writes a commented config file, from options or from questions."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from streamedge.cli.output import DEFAULT_CONFIG, EXIT_CONFIG_INVALID, exit_on_file_error
from streamedge.config.load import load
from streamedge.errors import ConfigError

HTTP = ("127.0.0.1:8080",)
RTMP = ("127.0.0.1:1935",)
ALL_HOSTS = ("*",)

_OPTIONS = {  # by the beginning of the key that has an option's value
    "listen.http": "--http",
    "listen.rtmp": "--rtmp",
    "listen.admin": "--admin",
    "edge.cache_size": "--cache-size",
    "edge.cache": "--cache",
    "origins.main.region": "--region",
    "origins.main.endpoint": "--endpoint",
    "origins.main": "--origin",
    "distributions[0].aliases": "--alias",
    "distributions[1].aliases": "--alias",
}

_HEAD = """\
# The config of a StreamEdge edge. `streamedge check` finds mistakes, `streamedge reload` applies
# changes to the running edge, `streamedge config reference WORD` explains keys.
# Keys with a # in front have their default value.

# Further files, for example one for each distribution:
# include = ["conf.d/*.toml"]

[edge]
# The name of this edge, in the header field Via and in logs.
# name = "local"
# The cache: objects are evicted when it is larger than cache_size.
cache = {cache}
cache_size = {cache_size}
# One worker process for each processor.
# workers = 0
# Where the log goes: stdout, stderr or a file.
# log = "stdout"

[listen]
# Addresses; ":8080" is port 8080 of every IPv4 address.
http = {http}
rtmp = {rtmp}
# Health, metrics and the operators' calls. Keep it to this machine, or set up [admin].
admin = {admin}
"""

_DISTRIBUTIONS = """
# What viewers get. Hosts that no distribution names get the one whose aliases has "*".
[[distributions]]
id = "EWEB"
type = "web"
origin = "main"
aliases = {aliases}
# How long objects are cached if the origin does not say.
# default_ttl = "24h"

[[distributions]]
id = "ESTREAM"
type = "rtmp"
origin = "main"
# rtmp://HOST/vod/mp4:film.mp4 plays film.mp4 of the origin.
application = ["vod"]
"""


@dataclass(frozen=True, slots=True)
class Answers:
    """What the config file is made of. ``origin``: a folder, s3://BUCKET, or a URL."""

    origin: str
    http: Sequence[str] = HTTP
    rtmp: Sequence[str] = RTMP
    admin: str = "127.0.0.1:9090"
    cache: str = "var/cache"
    cache_size: str = "20GiB"
    aliases: Sequence[str] = ALL_HOSTS
    region: str = ""
    endpoint: str = ""  # of an S3 server that is not Amazon's


def config_text(answers: Answers) -> str:
    """The config file."""
    values = {
        name: json.dumps(value if isinstance(value, str | int) else list(value))
        for name, value in {
            "cache": answers.cache,
            "cache_size": _size(answers.cache_size),
            "http": answers.http,
            "rtmp": answers.rtmp,
            "admin": answers.admin,
            "aliases": answers.aliases,
        }.items()
    }
    head = _HEAD.format(**values)
    return head + _origin(answers) + _DISTRIBUTIONS.format(**values)


def _size(text: str) -> str | int:
    """A size as in a config file, where a number of bytes has no quotes."""
    return int(text) if re.fullmatch("[0-9]{1,20}", text) else text


def _origin(answers: Answers) -> str:
    begin = "\n# Where objects come from.\n[origins.main]\n"
    origin = answers.origin
    if origin.startswith("s3://"):
        bucket, _, prefix = origin.removeprefix("s3://").partition("/")
        region = answers.region or "us-east-1"
        lines = [
            'type = "s3"',
            f"bucket = {json.dumps(bucket)}",
            f"region = {json.dumps(region)}",
            *([f"endpoint = {json.dumps(answers.endpoint)}"] if answers.endpoint else []),
            *([f"prefix = {json.dumps(prefix.rstrip('/') + '/')}"] if prefix else []),
            "# Without keys the AWS credential chain is used (environment, ~/.aws, instance role).",
            '# access_key_id = "AKIA…"',
            '# secret_access_key = { file = "/etc/streamedge/secret" }',
        ]
    elif _is_url(origin):
        lines = ['type = "http"', f"url = {json.dumps(origin)}"]
    else:
        lines = [
            "# A folder of this machine; s3 and http are the other types.",
            'type = "directory"',
            f"path = {json.dumps(origin)}",
        ]
    return begin + "\n".join(lines) + "\n"


def init(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write; - is stdout.")
    ] = DEFAULT_CONFIG,
    origin: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="A folder, s3://BUCKET/PREFIX, or a URL of a web server."
        ),
    ] = None,
    http: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="HOST:PORT or :PORT that serves HTTP; may be repeated."
        ),
    ] = None,
    rtmp: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="HOST:PORT or :PORT that serves RTMP; may be repeated."
        ),
    ] = None,
    admin: Annotated[
        str, typer.Option(metavar="ADDRESS", help="HOST:PORT or unix:PATH for operators' calls.")
    ] = "127.0.0.1:9090",
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="A host name that viewers use; may be repeated. Default: every host.",
        ),
    ] = None,
    cache: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", help="The folder of the cache; it is made if it is missing."
        ),
    ] = "var/cache",
    cache_size: Annotated[
        str, typer.Option(metavar="SIZE", help="The disk space that the cache may use.")
    ] = "20GiB",
    region: Annotated[
        str,
        typer.Option(metavar="REGION", help="The region of an S3 bucket, such as eu-central-1."),
    ] = "",
    endpoint: Annotated[
        str, typer.Option(metavar="URL", help="The URL of an S3 server that is not Amazon's.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented config file, from the options or from questions."""
    is_stdout = str(output) == "-"
    with exit_on_file_error():
        exists = not is_stdout and output.exists()
    if exists and output.is_dir():
        _exit(f"{output} is a folder: --output names a file in it")
    if exists and not force:
        _exit(f"{output} exists already; --force replaces it")
    if origin is None:
        origin = _ask("Where are the objects: a folder, s3://BUCKET, or a URL?", "media")
        if http is None:
            http = [_ask("Address for HTTP?", "127.0.0.1:8080")]
        if rtmp is None:
            rtmp = [_ask("Address for RTMP?", "127.0.0.1:1935")]
    with exit_on_file_error():
        problem = _origin_problem(origin, region, endpoint)
    if problem:
        _exit(problem)
    if not is_stdout and not _is_url(origin) and output.absolute().parent != Path.cwd():
        origin = str(Path(origin).absolute())  # paths in the file start from its own folder
    answers = Answers(
        origin,
        http or HTTP,
        rtmp or RTMP,
        admin,
        cache,
        cache_size,
        alias or ALL_HOSTS,
        region,
        endpoint,
    )
    text = config_text(answers)
    folder = Path.cwd() if is_stdout else output.absolute().parent
    with exit_on_file_error():
        problems = mistakes(text, folder)
    if problems:
        _exit(*map(_with_option, problems))
    if is_stdout:
        typer.echo(text, nl=False)
        return
    with exit_on_file_error():
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text)
    typer.echo(f"{output} is written. Next: streamedge serve --config {output}")


def _exit(*problems: str) -> NoReturn:
    for problem in problems:
        typer.echo(f"streamedge: {problem}", err=True)
    raise typer.Exit(EXIT_CONFIG_INVALID)


def _is_url(origin: str) -> bool:
    return origin.startswith(("s3://", "http://", "https://"))


def _origin_problem(origin: str, region: str, endpoint: str) -> str:
    """Why ``--origin`` is no place that objects come from, or "" where it may be one."""
    if (region or endpoint) and not origin.startswith("s3://"):
        option = "--endpoint" if endpoint else "--region"
        return f"{option} is for a bucket: --origin s3://BUCKET"
    if _is_url(origin) or Path(origin).is_dir():
        return ""
    if "://" in origin:
        return f"--origin {origin}: give a folder, s3://BUCKET, or a URL with http:// or https://"
    if Path(origin).exists():
        return f"--origin {origin}: it is a file; give the folder"
    text = f"--origin {origin}: there is no such folder"
    is_host = "." in origin.partition("/")[0].strip(".")
    return f"{text}; a web server is https://{origin}" if is_host else text


def _with_option(problem: str) -> str:
    """The problem with the option that has the value, in place of the key."""
    for key, option in _OPTIONS.items():
        if problem.startswith(key):
            rest = problem.removeprefix(key)
            return f"{option}: {rest.partition(': ')[2]}"
    return problem


def mistakes(text: str, folder: Path) -> list[str]:
    """What ``streamedge check`` would say about the file in ``folder``, without file and line."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".toml", prefix=".streamedge-") as new:
        new.write(text)
        new.flush()
        try:
            load(Path(new.name))
        except ConfigError as exc:
            place = re.compile(re.escape(new.name) + ":[0-9]+: ")
            return [place.sub("", problem) for problem in exc.problems]
    return []


def _ask(question: str, default: str) -> str:
    """The answer on a terminal; elsewhere the default."""
    if not sys.stdin.isatty():
        _exit("give --origin; there is no terminal for questions")
    answer: str = typer.prompt(question, default=default, err=True)
    return answer
