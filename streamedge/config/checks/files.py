"""Checks of files and folders that the config names, and absolute paths.

Apart from reading the config file, this is the only I/O of loading a config; it changes nothing.
Messages show only the path of a key file.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, TypeVar

from streamedge.config.checks.fleet import TLS_FILES, edge_name
from streamedge.config.errors.mistakes import Mistake, entries, named, short, string, table
from streamedge.config.errors.schema_location import value_at
from streamedge.config.errors.toml_lines import Key
from streamedge.config.schema.access import PEM_LIMIT_CHARACTERS
from streamedge.config.schema.config import (
    Config,
    DirectoryOriginConfig,
    HttpOriginConfig,
    PublicKeyConfig,
    Section,
)
from streamedge.config.schema.units import UNIX_PREFIX

if TYPE_CHECKING:
    from cryptography import x509

_PATHS: dict[type[Section], tuple[str, ...]] = {
    DirectoryOriginConfig: ("path",),
    HttpOriginConfig: ("ca", "client_certificate", "client_key"),
}
_NO_PUBLIC_KEY = "expected the PEM of a public key, RSA or ECDSA on P-256"
_NO_LOG_FILES = frozenset({"stdout", "stderr", "off"})
SOCKET_PATH_MAX_BYTES = 107  # sun_path of unix(7), less its NUL
Kind = TypeVar("Kind", bound=Section)


def path_mistakes(document: dict[str, object], folder: Path) -> Iterator[Mistake]:
    """Folders and files that are missing or of the wrong kind."""
    cache = value_at(document, ("edge", "cache"))
    exists = isinstance(cache, str) and "\0" not in cache and os.path.lexists(folder / cache)
    if exists and not os.path.isdir(folder / str(cache)):
        yield Mistake(("edge", "cache"), "expected a folder, found a file with that name")
    yield from _log_mistakes(value_at(document, ("edge", "log")), folder)
    for key, certificate in entries(document, ("certificates",)):
        yield from _pair_mistakes(key, certificate, "certificate", "key", folder)
    for key, public_key in named(document, "public_keys"):
        yield from _public_key_mistakes(key, public_key, folder)
    yield from _database_mistakes(value_at(document, ("countries", "database")), folder)
    for key, origin in named(document, "origins"):
        if origin.get("type") == "directory":
            yield from _folder_mistakes((*key, "path"), string(origin, "path"), folder)
        elif origin.get("type") == "http":
            yield from _authority_mistakes((*key, "ca"), string(origin, "ca"), folder)
            yield from _pair_mistakes(key, origin, "client_certificate", "client_key", folder)
    yield from _fleet_mistakes(document, folder)
    admin = table(document.get("admin"))
    yield from _pair_mistakes(("admin",), admin, "certificate", "key", folder)
    yield from _socket_mistakes(string(table(document.get("listen")), "admin"), folder)


def with_absolute_paths(config: Config, folder: Path) -> Config:
    """``config`` with every relative path resolved from ``folder``."""
    return config.model_copy(
        update={
            "edge": _absolute(config.edge, folder, "cache", "log"),
            "certificates": tuple(
                _absolute(certificate, folder, "certificate", "key")
                for certificate in config.certificates
            ),
            "listen": _absolute(config.listen, folder, "admin"),
            "admin": _absolute(config.admin, folder, "certificate", "key"),
            "fleet": _absolute(config.fleet, folder, *TLS_FILES),
            "countries": _absolute(config.countries, folder, "database"),
            "public_keys": {
                name: _with_text(_absolute(key, folder, "file"))
                for name, key in config.public_keys.items()
            },
            "origins": {
                name: _absolute(origin, folder, *_PATHS.get(type(origin), ()))
                for name, origin in config.origins.items()
            },
        }
    )


def _absolute(section: Kind, folder: Path, *keys: str) -> Kind:
    paths = {key: path for key in keys if isinstance(path := getattr(section, key), Path)}
    return section.model_copy(update={key: folder / path for key, path in paths.items()})


def _with_text(key: PublicKeyConfig) -> PublicKeyConfig:
    """The key with its file's text, so that the checked key is the one in use, also later."""
    if key.file is None:
        return key
    try:
        return key.model_copy(update={"pem": key.file.read_text()})
    except (OSError, UnicodeDecodeError):  # removed since the check
        return key


def _folder_mistakes(key: Key, path: str | None, folder: Path) -> Iterator[Mistake]:
    if _is_path(path) and (problem := _problem_at(folder / path, "a folder", stat.S_ISDIR)):
        yield Mistake(key, problem)


def _log_mistakes(log: object, folder: Path) -> Iterator[Mistake]:
    """Mistakes of the log's file."""
    if not _is_log_file(log):
        return
    key, path = ("edge", "log"), folder / log
    if problem := _problem_at(path.parent, "a folder for the log", stat.S_ISDIR):
        yield Mistake(key, problem)
    elif os.path.isdir(path):
        yield Mistake(key, f"expected a file, found a folder at {path}")


def _is_log_file(log: object) -> TypeGuard[str]:
    return isinstance(log, str) and log not in _NO_LOG_FILES and _is_path(log)


def _file_mistake(key: Key, path: Path) -> Mistake | None:
    problem = _problem_at(path, "a PEM file", stat.S_ISREG)
    return Mistake(key, problem) if problem else None


def _problem_at(path: Path, kind: str, is_kind: Callable[[int], bool]) -> str:
    """Why there is no ``kind`` at ``path``; "" if there is one."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        what = "nothing"
    except OSError as exc:  # such as a folder above it that this user may not enter
        return f"expected {kind}, but {path} cannot be read: {_reason(exc)}"
    else:
        if is_kind(mode):
            return ""
        what = "a folder" if stat.S_ISDIR(mode) else "a file"
    return f"expected {kind}, found {what} at {path}"


def _pair_mistakes(
    key: Key, holder: dict[str, object], certificate: str, private: str, folder: Path
) -> Iterator[Mistake]:
    """Mistakes of a certificate and its key; as a pair if both exist."""
    chain, secret = string(holder, certificate), string(holder, private)
    missing = False
    for name, path in ((certificate, chain), (private, secret)):
        mistake = _file_mistake((*key, name), folder / path) if _is_path(path) else None
        if mistake:
            missing = True
            yield mistake
    if missing or not _is_path(chain) or not _is_path(secret):
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(folder / chain)
    except (OSError, ValueError) as exc:
        text = f"no certificate can be read in {folder / chain}: {_reason(exc)}"
        yield Mistake((*key, certificate), text)
        return
    try:
        context.load_cert_chain(folder / chain, folder / secret, password=_no_password)
    except (OSError, ValueError) as exc:
        if isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH":
            text = f"the key in {folder / secret} is not the certificate's"
        else:
            text = f"no unencrypted key can be read in {folder / secret}: {_reason(exc)}"
        yield Mistake((*key, private), text)


def _socket_mistakes(address: str | None, folder: Path) -> Iterator[Mistake]:
    """Mistakes of ``unix:PATH`` as the admin address."""
    if address is None or not address.startswith(UNIX_PREFIX):
        return
    path, key = folder / address.removeprefix(UNIX_PREFIX), ("listen", "admin")
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        yield Mistake(key, f"expected a path of at most {SOCKET_PATH_MAX_BYTES} bytes, as absolute")
    elif os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        yield Mistake(key, f"expected a socket, found something else at {path}")
    elif problem := _problem_at(path.parent, "a folder for the socket", stat.S_ISDIR):
        yield Mistake(key, problem)


def _authority_mistakes(key: Key, path: str | None, folder: Path) -> Iterator[Mistake]:
    if not _is_path(path):
        return
    mistake = _file_mistake(key, folder / path)
    if mistake:
        yield mistake
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(folder / path)
    except (OSError, ValueError) as exc:
        yield Mistake(key, f"no certificate can be read in {folder / path}: {_reason(exc)}")


def _fleet_mistakes(document: dict[str, object], folder: Path) -> Iterator[Mistake]:
    """Mistakes of the fleet's certificate files; the certificate must have this edge's name."""
    fleet = table(document.get("fleet"))
    mistakes = [
        *_authority_mistakes(("fleet", "ca"), string(fleet, "ca"), folder),
        *_pair_mistakes(("fleet",), fleet, "certificate", "key", folder),
    ]
    yield from mistakes
    certificate, authority = string(fleet, "certificate"), string(fleet, "ca")
    if mistakes or not _is_path(certificate):
        return
    from cryptography import x509  # noqa: PLC0415  # slow, only fleets need it

    key = ("fleet", "certificate")
    try:
        leaf, *chain = x509.load_pem_x509_certificates((folder / certificate).read_bytes())
        names = {one.lower() for one in dns_names(leaf)}
    except (OSError, ValueError):
        yield Mistake(key, f"no certificate can be read in {folder / certificate}")
        return
    name = edge_name(document)
    if name.lower() not in names:
        advice = f"streamedge fleet certificate {name} --ca fleet-ca.pem makes one"
        yield Mistake(key, f"expected a certificate for the DNS name {short(name)}; {advice}")
    if _is_path(authority):
        authorities = x509.load_pem_x509_certificates((folder / authority).read_bytes())
        if not any(_has_issued(one, leaf) for one in (*authorities, *chain)):
            text = f"the CA in {folder / authority} has not signed this certificate"
            yield Mistake(key, text)


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The certificate's DNS names; none without a subjectAltName."""
    from cryptography import x509  # noqa: PLC0415  # slow, only fleets need it

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(extension.value.get_values_for_type(x509.DNSName))


def certificate_names(file: Path) -> tuple[str, ...]:
    """The DNS names of the first certificate in a PEM file; none if it cannot be read."""
    from cryptography import x509  # noqa: PLC0415  # slow, only HTTPS needs it

    try:
        return dns_names(x509.load_pem_x509_certificate(file.read_bytes()))
    except (OSError, ValueError):
        return ()


def _has_issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _public_key_mistakes(
    key: Key, public_key: dict[str, object], folder: Path
) -> Iterator[Mistake]:
    path, pem = string(public_key, "file"), string(public_key, "pem")
    if _is_path(path):
        mistake = _file_mistake((*key, "file"), folder / path)
        if mistake:
            yield mistake
            return
        try:
            content = (folder / path).read_bytes()[: PEM_LIMIT_CHARACTERS + 1]
        except OSError as exc:
            text = f"{folder / path} cannot be read: {_reason(exc)}"
            yield Mistake((*key, "file"), text)
            return
        if not _is_public_key(content):
            yield Mistake(
                (*key, "file"), f"{_NO_PUBLIC_KEY}, found something else in {folder / path}"
            )
    elif pem and not _is_public_key(pem.encode()):
        yield Mistake((*key, "pem"), f"{_NO_PUBLIC_KEY}, found something else")


def _is_public_key(pem: bytes) -> bool:
    """Whether ``pem`` is a key that signatures can be verified with."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  # slow, seldom needed
    from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        public_key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return False
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return isinstance(public_key.curve, ec.SECP256R1)
    return isinstance(public_key, rsa.RSAPublicKey)


def _database_mistakes(path: object, folder: Path) -> Iterator[Mistake]:
    key = ("countries", "database")
    if not isinstance(path, str) or not _is_path(path):
        return
    if problem := _problem_at(folder / path, "an MMDB file", stat.S_ISREG):
        yield Mistake(key, problem)
        return
    import maxminddb  # noqa: PLC0415  # seldom needed

    try:
        maxminddb.open_database(folder / path).close()
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as exc:
        reason = getattr(exc, "strerror", None) or "it has no MMDB metadata"
        yield Mistake(key, f"expected an MMDB file, found another at {folder / path}: {reason}")


def _is_path(path: object) -> TypeGuard[str]:
    """Whether the value is a path; the schema reports other values."""
    return isinstance(path, str) and bool(path) and "\0" not in path


def _no_password() -> str:
    """An edge starts unattended: OpenSSL must not prompt on the terminal."""
    return ""


def _reason(exc: OSError | ValueError) -> str:
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or "not PEM").lower().replace("_", " ")
    return getattr(exc, "strerror", None) or "not PEM"
