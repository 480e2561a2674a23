"""The part of the schema for limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from streamedge.config.schema.units import SIZE_LIMIT_BYTES
from streamedge.config.schema.values import RESTART, DurationS, Section, SizeBytes


class LimitsConfig(Section):
    """Limits of connections, times, memory and files."""

    http_connections: Annotated[int, RESTART] = Field(
        default=10_000, description="Open HTTP connections, each worker.", ge=1, le=1_000_000
    )
    http_connections_per_address: int = Field(
        default=0,
        description="Open HTTP connections of one viewer's address, each worker; 0 is no limit.",
        ge=0,
        le=1_000_000,
    )
    http_idle: DurationS = Field(
        default=30.0,
        description="An HTTP connection with no request is closed after this long.",
        gt=0,
    )
    http_stall: DurationS = Field(
        default=60.0,
        description="A viewer that reads no byte of a response for this long is disconnected.",
        gt=0,
    )
    http_body_rate: SizeBytes = Field(
        default=500,
        description="Lowest rate of a request's body in bytes per second, on average over"
        " http_stall; a slower viewer is disconnected. 0 is no limit.",
        ge=0,
        le=SIZE_LIMIT_BYTES,
    )
    tls_handshake: DurationS = Field(
        default=10.0, description="Time for a viewer to complete the TLS handshake.", gt=0
    )
    url: SizeBytes = Field(
        default=8192,
        description="Longest path and query of a request; a longer one gets 414.",
        ge=256,
        le=16 << 10,
    )
    ranges: int = Field(
        default=8,
        description="Ranges in one request; with more, Range is ignored.",
        ge=1,
        le=256,
    )
    request_memory: SizeBytes = Field(
        default=32 << 20,
        description="Memory of each worker for parsed requests and prepared responses, which speed"
        " up the next ones; the oldest are dropped first.",
        ge=1 << 20,
        le=64 << 30,
    )
    request_body: SizeBytes = Field(
        default=50 << 30,
        description="Largest body of a request; a larger one gets 413.",
        ge=0,
        le=SIZE_LIMIT_BYTES,
    )
    signature: Annotated[SizeBytes, RESTART] = Field(
        default=8 << 10,
        description="Largest policy and signature of a signed URL or cookie; a larger one gets"
        " 403.",
        ge=1024,
        le=64 << 10,
    )
    api_body: SizeBytes = Field(
        default=1 << 20,
        description="Largest body of a request to CloudFront's API; a larger one gets 413.",
        ge=1024,
        le=64 << 20,
    )
    invalidations: Annotated[int, RESTART] = Field(
        default=10_000,
        description="Invalidations that are stored one by one; beyond this number, the oldest are"
        " merged into one of everything in their distribution.",
        ge=1,
        le=1_000_000,
    )
    write_queue: Annotated[SizeBytes, RESTART] = Field(
        default=10 << 30,
        description='Disk space for writes that wait for their origin (write = "back"); a write'
        " that does not fit gets 503.",
        ge=1 << 20,
        le=SIZE_LIMIT_BYTES,
    )
    rtmp_connections: Annotated[int, RESTART] = Field(
        default=10_000, description="Open RTMP connections, each worker.", ge=1, le=1_000_000
    )
    rtmp_connections_per_address: int = Field(
        default=0,
        description="Open RTMP connections of one viewer's address, each worker; 0 is no limit.",
        ge=0,
        le=1_000_000,
    )
    rtmp_handshake: DurationS = Field(
        default=10.0, description="Time for an RTMP client to complete handshake and connect.", gt=0
    )
    rtmp_idle: DurationS = Field(
        default=120.0,
        description="An RTMP client that shows no media and sends nothing for this long is"
        " disconnected.",
        gt=0,
    )
    rtmp_stall: DurationS = Field(
        default=60.0,
        description="An RTMP viewer that reads no byte for this long is disconnected.",
        gt=0,
    )
    rtmp_message: SizeBytes = Field(
        default=64 << 10,
        description="Largest message an RTMP client may send.",
        ge=1024,
        le=16 << 20,
    )
    rtmp_streams: int = Field(
        default=16, description="Streams on one RTMP connection.", ge=1, le=1024
    )
    rtmp_ahead: DurationS = Field(
        default=3_600.0,
        description="Most media sent ahead of real time, whatever buffer the client announces.",
        gt=0,
    )
    rtmp_rate: SizeBytes = Field(
        default=0,
        description="Most bytes per second to one RTMP viewer that fills its buffer; 0 is no"
        " limit.",
        ge=0,
    )
    moov: Annotated[SizeBytes, RESTART] = Field(
        default=64 << 20,
        description="Largest index of an MP4 file: its moov box, and the moof boxes of a fragmented"
        " one together.",
        ge=1024,
        le=1 << 30,
    )
    titles: Annotated[SizeBytes, RESTART] = Field(
        default=256 << 20,
        description="Memory for media indexes, including those in use, each worker.",
        ge=1 << 20,
        le=1 << 40,
    )
    media_index: Annotated[SizeBytes, RESTART] = Field(
        default=64 << 20,
        description="Memory for the index of one media file; a file that needs more is not played.",
        ge=1 << 20,
        le=1 << 34,
    )
    media_helpers: Annotated[int, RESTART] = Field(
        default=4,
        description="Processes that read Matroska, WebM, MPEG-TS and ADTS files, each worker; each"
        " reads one file at a time. One more makes posters for the operators' page.",
        ge=1,
        le=64,
    )
    media_helper_memory: Annotated[SizeBytes, RESTART] = Field(
        default=1 << 30,
        description="Address space of one of these processes; a file that needs more is not"
        " played and has no poster.",
        ge=256 << 20,
        le=64 << 30,
    )
    media_helper_time: Annotated[DurationS, RESTART] = Field(
        default=10.0,
        description="Time that one of these processes may take for a segment or poster of a file,"
        " apart from waiting for the origin.",
        ge=1,
        le=600,
    )
    open_extents: Annotated[int, RESTART] = Field(
        default=2048, description="Cache files kept open, each worker.", ge=64, le=1 << 20
    )
    records: Annotated[SizeBytes, RESTART] = Field(
        default=32 << 20,
        description="Memory for keys and header fields of open cached objects, each worker;"
        " the least recently used is closed first.",
        ge=1 << 20,
        le=1 << 34,
    )
    log_buffer: Annotated[SizeBytes, RESTART] = Field(
        default=8 << 20,
        description="Memory for log lines that cannot be written yet, each process; further lines"
        " are dropped and counted.",
        ge=64 << 10,
        le=1 << 30,
    )
    log_spool: SizeBytes = Field(
        default=1 << 30,
        description="Disk space for access logs that are not at their origin yet; when it is used"
        " up, the oldest lines are dropped and counted.",
        ge=64 << 20,
        le=SIZE_LIMIT_BYTES,
    )
    quick_abort: Annotated[SizeBytes, RESTART] = Field(
        default=1 << 20,
        description="When the last viewer of an object leaves, its fill"
        " continues if at most this much is missing, and stops otherwise.",
        ge=0,
        le=SIZE_LIMIT_BYTES,
    )
    origin_retries: Annotated[int, RESTART] = Field(
        default=4,
        description="Attempts after the first before a read of an origin fails. Each has the whole"
        " connect_timeout and read_timeout of the origin.",
        ge=0,
        le=20,
    )
