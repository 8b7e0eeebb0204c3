"""What gRPC puts into headers: metadata, timeouts, messages of statuses.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote

import grpc

from gateway.http2.header import literal

Metadata = Iterable[tuple[str, str | bytes]]

CODES: Final[dict[bytes, grpc.StatusCode]] = {b"%d" % code.value[0]: code for code in grpc.StatusCode}

_MAX_DETAILS = 1024  # characters; more wouldn't fit into what some peers take for headers
_UNESCAPED = "".join(chr(c) for c in range(0x20, 0x7F) if c != ord("%"))
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_DIGITS = 10**8
_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")


def status_fields(code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> bytes:
    """The headers that end a call."""
    block = literal(b"grpc-status", b"%d" % code.value[0])
    if details:
        block += literal(b"grpc-message", quote(details[:_MAX_DETAILS], safe=_UNESCAPED).encode())
    return block + encode_metadata(trailing)


def read_details(value: bytes) -> str:
    """The text of a `grpc-message`."""
    return unquote(value.decode("latin-1"), errors="replace")


def encode_metadata(metadata: Metadata) -> bytes:
    """Metadata as headers; raises ValueError for what a header can't carry."""
    block = b""
    for name, value in metadata:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected a metadata key of lower-case letters, digits, '_', '-' and '.', got {name!r}")
        if name.endswith("-bin"):
            raw = value if isinstance(value, bytes) else value.encode()
            encoded = base64.b64encode(raw).rstrip(b"=")
        elif isinstance(value, bytes) or not _VALUE.fullmatch(value):
            raise ValueError(f"expected printable ASCII as the metadata of {name!r}; other bytes need a key in '-bin'")
        else:
            encoded = value.encode()
        block += literal(name.encode(), encoded)
    return block


def read_binary(value: bytes) -> bytes:
    """What a `-bin` header holds; raises ValueError."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as exc:
        raise ValueError("a -bin header holds no base64") from exc


def read_timeout(value: bytes) -> float:
    """The seconds in a `grpc-timeout`; raises ValueError."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise ValueError("expected a grpc-timeout of at most 8 digits and a unit of H, M, S, m, u or n")
    return int(match[1]) * _UNIT_S[match[2]]


def encode_timeout(timeout_s: float) -> bytes:
    """Seconds as a `grpc-timeout`, never less than they are unless they are more than three years."""
    for unit, per_s in ((b"m", 1e3), (b"S", 1.0)):
        count = int(max(timeout_s, 0.0) * per_s) + 1
        if count < _MAX_DIGITS:
            return b"%d%b" % (count, unit)
    return b"%dS" % (_MAX_DIGITS - 1)
