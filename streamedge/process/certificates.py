"""The certificates shown to viewers: which one to which name, and new ones without a restart.

Owns the TLS settings of viewers' connections. One context stands in front of all connections; a
callback hands each to the context of the certificate whose names hold the one asked for (SNI,
RFC 6066 §3), or else to the first. A connection made for one host carries requests for others only
where its certificate is theirs too (RFC 9110 §4.3.3, §7.4). The front context is made once, before
workers are forked, and never replaced: its ticket keys are the same in all of them, so a viewer can
resume with any.

``reload_changed`` reads files that have changed since they were read; it opens no connection and
starts nothing. A pair that cannot be used changes nothing.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from cryptography import x509

from streamedge.config.schema.config import Config
from streamedge.delivery.hosts import host_name
from streamedge.delivery.net.tls import NamedTls
from streamedge.errors import StreamEdgeError

# With forward secrecy and authenticated encryption only; TLS 1.3 has no others (RFC 9325 §4.2).
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
PROTOCOLS = ("http/1.1",)


class CertificateError(StreamEdgeError):
    """A certificate and key cannot be used; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate with its chain, and its unencrypted key, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class CertificateChange:
    """What a look has found: files read anew, or, with a reason, left alone."""

    certificate: Path
    names: tuple[str, ...] = ()
    expires: datetime | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A pair of files as it was read."""

    context: ssl.SSLContext
    names: tuple[str, ...]
    expires: datetime

    def has(self, name: str) -> bool:
        # A wildcard stands for one label, the first (RFC 9525 §6.3).
        return name in self.names or "*." + name.partition(".")[2] in self.names


_Stamp = tuple[tuple[int, int, int] | None, ...]
"""Inode, time of change in ns and size of both files; None is no file."""


@dataclass(frozen=True, slots=True)
class LoadedPair:
    """A pair that was read, and how its files were then."""

    files: CertificateFiles
    stamp: _Stamp
    loaded: _Loaded


class Certificates:
    """The certificates of a config. Raises CertificateError when one cannot be used."""

    def __init__(self, declared: Sequence[CertificateFiles]) -> None:
        self.use(load_pairs(declared))
        self.front = _context()
        self.front.sslobject_class = NamedTls
        self.front.sni_callback = self._choose

    def use(self, pairs: Sequence[LoadedPair]) -> None:
        """Shows these from now on, and no others."""
        self._declared = [pair.files for pair in pairs]
        self._seen = [pair.stamp for pair in pairs]
        self._stamps = list(self._seen)  # of what was read, or refused
        self._loaded = [pair.loaded for pair in pairs]
        self._by_name: dict[str, int] = {}
        self._index()

    def reload_changed(self) -> Iterator[CertificateChange]:
        """Reads files that have changed and are as they were at the last look.

        So a file is not read while it is being written, nor a certificate before its key has come.
        """
        for number, files in enumerate(self._declared):
            stamp, before = _stamp(files), self._seen[number]
            self._seen[number] = stamp
            if stamp == self._stamps[number] or stamp != before:
                continue
            self._stamps[number] = stamp
            try:
                loaded = _load(files)
            except CertificateError as exc:
                yield CertificateChange(files.certificate, refused=str(exc))
                continue
            self._loaded[number] = loaded
            self._index()
            yield CertificateChange(files.certificate, loaded.names, loaded.expires)

    def context_for(self, name: str | None) -> ssl.SSLContext:
        """The context for a host name: its certificate's, or the first one's."""
        return self._loaded[self._number_for("" if name is None else name.lower())].context

    def _number_for(self, name: str) -> int:
        found = self._by_name.get(name)
        if found is None:
            found = self._by_name.get("*." + name.partition(".")[2], 0)
        return found

    def _choose(self, connection: ssl.SSLObject, name: str | None, _front: ssl.SSLContext) -> None:
        connection.context = self.context_for(name)
        if name is not None:
            assert isinstance(connection, NamedTls)
            number = self._number_for(name.lower())
            connection.serves = partial(self._serves, self._declared[number], self._loaded[number])

    def _serves(self, files: CertificateFiles, shown: _Loaded, host: str) -> bool:
        """Whether a host's requests may come where a certificate was shown, since renewed or not.

        What no certificate has belongs to the first, as it does when the client names it.
        """
        name = host_name(host)
        return self._declared[self._number_for(name)] == files or shown.has(name)

    def _index(self) -> None:
        self._by_name = {}
        for number, loaded in enumerate(self._loaded):
            for name in loaded.names:
                self._by_name.setdefault(name, number)


def declared_files(config: Config) -> list[CertificateFiles]:
    """The pairs that a config names."""
    return [
        CertificateFiles(declared.certificate, declared.key) for declared in config.certificates
    ]


def load_pairs(declared: Sequence[CertificateFiles]) -> tuple[LoadedPair, ...]:
    """Reads all pairs. Raises CertificateError when one cannot be used, or there is none."""
    if not declared:
        raise CertificateError("no certificate is declared")
    # As they were before they were read: what comes in between is seen at the next look.
    stamps = [_stamp(files) for files in declared]
    return tuple(
        LoadedPair(files, stamp, _load(files))
        for files, stamp in zip(declared, stamps, strict=True)
    )


def _load(files: CertificateFiles) -> _Loaded:
    context = _context()
    try:
        # With a password to offer OpenSSL does not ask for one on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
        leaf = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        names = _names(leaf)
    except Exception as exc:  # what a strange certificate raises in a parser has no common base
        reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or str(exc)
        raise CertificateError(f"{files.certificate} with {files.key}: {reason}") from exc
    return _Loaded(context, names, leaf.not_valid_after_utc)


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    """The certificate's DNS names, in lower case; none where it has no subjectAltName."""
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Each viewer knows which cipher its processor is quick at.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(PROTOCOLS))
    return context


def _stamp(files: CertificateFiles) -> _Stamp:
    return _file_stamp(files.certificate), _file_stamp(files.key)


def _file_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
