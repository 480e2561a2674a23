"""TLS certificates for viewers: selection by host name, and renewal without a restart.

Connections start with a front context. A callback then selects the context of the certificate
for the requested name (SNI, RFC 6066 §3), or of the first certificate. A connection made for one
host carries requests for other hosts only if its certificate covers them (RFC 9110 §4.3.3, §7.4).
The front contexts are created once, before workers are forked, and never replaced: all workers have
the same ticket keys, so a viewer can resume a session with any of them.

ALPN (RFC 7301) offers HTTP/2 for the hosts that ``offers_http2`` names, and HTTP/1.1 for all.

``reload_changed`` reads files that have changed since they were read. A pair that cannot be used
changes nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path

from aiofiles.os import wrap
from cryptography import x509

from streamedge.config.checks.files import dns_names
from streamedge.config.schema.config import Config, WebDistributionConfig
from streamedge.delivery.hosts import HostTable, host_name
from streamedge.delivery.net.tls import NamedTls
from streamedge.errors import StreamEdgeError
from streamedge.files import FileStamp, file_stamp
from streamedge.ops.log import Log

# Only forward secrecy and authenticated encryption, as in TLS 1.3 (RFC 9325 §4.2).
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
# Of TLS 1.3, sent after a full handshake; each resumption brings a new one (RFC 8446 §4.6.1).
# OpenSSL's default is two; encrypting one takes as long as sending a response.
SESSION_TICKETS = 1
PROTOCOLS = ("h2", "http/1.1")
HOSTS_MAX = 4096  # pairs of a certificate and a host for which it is remembered what it covers
HOST_CHARACTERS_MAX = 260  # of such a host: a DNS name and a port


class CertificateError(StreamEdgeError):
    """A certificate and key cannot be used; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate with its chain, and its unencrypted key, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class CertificateChange:
    """A pair of files that was reloaded, or that cannot be used; ``error`` says why."""

    certificate: Path
    names: tuple[str, ...] = ()
    expires: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _LoadedCertificate:
    """The content of a pair of files; ``http1_context`` does not offer HTTP/2."""

    files: CertificateFiles
    context: ssl.SSLContext
    http1_context: ssl.SSLContext
    names: tuple[str, ...]
    expires: datetime

    def has(self, name: str) -> bool:
        # A wildcard matches one label, the first (RFC 9525 §6.3).
        return name in self.names or "*." + name.partition(".")[2] in self.names


_Stamp = tuple[FileStamp | None, ...]
"""Inode, modification time in ns and size of both files; None if there is no file."""


@dataclass(frozen=True, slots=True)
class LoadedPair:
    """A pair that was read, with the stamp of its files before that."""

    files: CertificateFiles
    stamp: _Stamp
    loaded: _LoadedCertificate


class Certificates:
    """The certificates of a config. Raises CertificateError when one cannot be used."""

    def __init__(
        self,
        file_pairs: Sequence[CertificateFiles],
        offers_http2: Callable[[str], bool] = lambda _host: True,
    ) -> None:
        self._offers_http2 = offers_http2
        self._file_pairs: list[CertificateFiles] = []
        self._loaded: list[_LoadedCertificate] = []  # by pair
        self._by_name: dict[str, int] = {}  # the number of the pair
        self._seen: list[_Stamp] = []  # of the files at the last check
        self._stamps: list[_Stamp] = []  # of the files that were read or refused
        self._covers_remembered = self._covers
        self.use(load_pairs(file_pairs), offers_http2)
        self.front = self._front_context(SESSION_TICKETS)
        self.front_without_tickets = self._front_context(0)
        """For clients of RTMPS: rtmpdump fails at a ticket of TLS 1.3."""

    def use(self, pairs: Sequence[LoadedPair], offers_http2: Callable[[str], bool]) -> None:
        """Replaces all certificates, and which hosts have HTTP/2 ("" for no name)."""
        self._offers_http2 = offers_http2
        self._file_pairs = [pair.files for pair in pairs]
        self._seen = [pair.stamp for pair in pairs]
        self._stamps = list(self._seen)
        self._loaded = [pair.loaded for pair in pairs]
        self._index()

    @property
    def names(self) -> Collection[str]:
        """The DNS names of all certificates, in lower case."""
        return self._by_name.keys()

    async def reload_changed(self) -> list[CertificateChange]:
        """Reads files that have changed, but not since the previous call; returns the changes.

        So a file is not read while it is written, nor a certificate before its key. After ``use``
        the results for the certificates before it are dropped.
        """
        # ``use`` replaces these lists while a thread reads.
        pairs, seen, stamps, loaded = self._file_pairs, self._seen, self._stamps, self._loaded
        changes: list[CertificateChange] = []
        for number, files in enumerate(pairs):
            stamp, before = await _read_stamp(files), seen[number]
            seen[number] = stamp
            if stamp == stamps[number] or stamp != before:
                continue
            stamps[number] = stamp
            try:
                loaded[number] = await _read_pair(files)
            except CertificateError as exc:
                changes.append(CertificateChange(files.certificate, error=str(exc)))
                continue
            self._index()
            changes.append(
                CertificateChange(files.certificate, loaded[number].names, loaded[number].expires)
            )
        return changes if pairs is self._file_pairs else []

    async def reload_and_log(self, log: Log) -> None:
        """As ``reload_changed``; logs each certificate that was loaded or refused."""
        for change in await self.reload_changed():
            if change.error is not None:
                log.event("certificate_refused", reason=change.error)
            else:
                log.event(
                    "certificate_loaded",
                    certificate=change.certificate,
                    names=change.names,
                    expires=change.expires,
                )

    def _front_context(self, tickets: int) -> ssl.SSLContext:
        context = _context()
        context.num_tickets = tickets
        context.sslobject_class = NamedTls
        context.sni_callback = self._choose
        return context

    def context_for(self, name: str | None) -> ssl.SSLContext:
        """The context for a host name: its certificate's, or the first one's."""
        name = "" if name is None else name.lower()
        loaded = self._loaded[self._number_for(name)]
        return loaded.context if self._offers_http2(name) else loaded.http1_context

    def _number_for(self, name: str) -> int:
        number = self._by_name.get(name)
        if number is None:
            number = self._by_name.get("*." + name.partition(".")[2], 0)
        return number

    def _choose(self, connection: ssl.SSLObject, name: str | None, _front: ssl.SSLContext) -> None:
        connection.context = self.context_for(name)
        if name is not None and isinstance(connection, NamedTls):
            number = self._number_for(name.lower())
            connection.serves = partial(self._serves, self._loaded[number])

    def _serves(self, certificate: _LoadedCertificate, host: str) -> bool:
        """Whether a connection with this certificate may carry requests for ``host``."""
        if len(host) > HOST_CHARACTERS_MAX:
            return self._covers(certificate, host)
        return self._covers_remembered(certificate, host)

    def _covers(self, certificate: _LoadedCertificate, host: str) -> bool:
        """The answer of ``_serves``.

        The certificate may have been renewed since. Hosts without a certificate belong to the
        first one, as in the handshake.
        """
        name = host_name(host)
        pair = self._file_pairs[self._number_for(name)]
        return pair == certificate.files or certificate.has(name)

    def _index(self) -> None:
        self._covers_remembered = lru_cache(HOSTS_MAX)(self._covers)  # each request calls it
        self._by_name = {}
        for number, loaded in enumerate(self._loaded):
            for name in loaded.names:
                self._by_name.setdefault(name, number)


class AdminCertificate:
    """The certificate of the admin address. Raises CertificateError when it cannot be used."""

    def __init__(self, certificate: Path, key: Path) -> None:
        files = [CertificateFiles(certificate, key)]
        # The admin address speaks HTTP/1.1 only.
        self._certificates = Certificates(files, offers_http2=lambda _host: False)

    @property
    def context(self) -> ssl.SSLContext:
        """The context to accept connections with."""
        return self._certificates.front

    @property
    def names(self) -> Collection[str]:
        """The certificate's DNS names, in lower case."""
        return self._certificates.names

    async def reload_changed(self, log: Log) -> None:
        """Loads the files if they have changed; logs that they were loaded or refused."""
        await self._certificates.reload_and_log(log)


def configured_files(config: Config) -> list[CertificateFiles]:
    """The pairs that a config names."""
    return [CertificateFiles(section.certificate, section.key) for section in config.certificates]


def http2_hosts(config: Config) -> Callable[[str], bool]:
    """Which hosts have HTTP/2: ``http2`` of the distribution that serves them."""
    if not config.listen.http2:
        return lambda _host: False
    distributions = HostTable(
        one
        for one in config.distributions
        if isinstance(one, WebDistributionConfig) and one.enabled
    )

    def offers_http2(host: str) -> bool:
        matches = distributions.find(host)
        return not matches or matches[0].http2

    return offers_http2


def load_pairs(file_pairs: Sequence[CertificateFiles]) -> tuple[LoadedPair, ...]:
    """Reads all pairs. Raises CertificateError if one cannot be used or there is none."""
    if not file_pairs:
        text = "the addresses with TLS stay until a restart: keep one, or restart the edge"
        raise CertificateError(f"certificates: none is left, but {text}")
    # Stamps from before the reads, so that the next call sees a change in between.
    stamps = [_stamp(files) for files in file_pairs]
    return tuple(
        LoadedPair(files, stamp, _load(files))
        for files, stamp in zip(file_pairs, stamps, strict=True)
    )


def _load(files: CertificateFiles) -> _LoadedCertificate:
    context, http1_context = _context(PROTOCOLS), _context(PROTOCOLS[1:])
    try:
        for one in (context, http1_context):
            # With a password callback, OpenSSL does not prompt on the terminal.
            one.load_cert_chain(files.certificate, files.key, password=lambda: "")
        leaf = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        names = tuple(name.lower() for name in dns_names(leaf))
    except Exception as exc:  # parser errors have no common base class
        reason = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or str(exc)
        raise CertificateError(f"{files.certificate} with {files.key}: {reason}") from exc
    return _LoadedCertificate(files, context, http1_context, names, leaf.not_valid_after_utc)


def _context(protocols: Sequence[str] = PROTOCOLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = SESSION_TICKETS
    # The client knows which cipher is fastest on its processor.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(protocols))
    return context


def _stamp(files: CertificateFiles) -> _Stamp:
    return file_stamp(files.certificate), file_stamp(files.key)


# OpenSSL reads the files itself, so aiofiles runs the whole functions in a thread.
_read_stamp = wrap(_stamp)
_read_pair = wrap(_load)
