"""Frames of HTTP/2 and the header blocks that gRPC needs, as bytes.

Source: RFC 9113 (frames, error codes), RFC 7541 (header blocks).
"""

import struct
from collections.abc import Iterable
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES = 9
DEFAULT_WINDOW = 65_535
DEFAULT_MAX_FRAME_BYTES = 16_384
MAX_WINDOW = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST = range(
    1, 7
)

_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_WORD = struct.Struct(">I")


class Code(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class ProtocolError(Exception):
    """The peer broke the protocol in a way that ends the connection."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*value) for value in values))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifiers and values of a SETTINGS frame's payload."""
    if len(payload) % _SETTING.size:
        raise ProtocolError(Code.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
    return [(key, value) for key, value in _SETTING.iter_unpack(payload)]


def word(payload: bytes) -> int:
    """The number that a RST_STREAM or WINDOW_UPDATE frame holds."""
    if len(payload) != _WORD.size:
        raise ProtocolError(Code.FRAME_SIZE_ERROR, "a frame of a wrong length")
    return int(_WORD.unpack(payload)[0])


def window_update(stream: int, size: int) -> bytes:
    """Give the peer `size` more bytes to send."""
    return frame(WINDOW_UPDATE, 0, stream, _WORD.pack(size))


def reset(stream: int, code: Code) -> bytes:
    """End a stream."""
    return frame(RST_STREAM, 0, stream, _WORD.pack(code))


def goaway(last_stream: int, code: Code, reason: bytes = b"") -> bytes:
    """Announce the connection's end, and which streams are still served."""
    return frame(GOAWAY, 0, 0, _WORD.pack(last_stream) + _WORD.pack(code) + reason)


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that leaves no trace in the peer's table, without Huffman coding."""
    return b"\x00" + _length(name) + name + _length(value) + value


def header_block(*fields: tuple[bytes, bytes]) -> bytes:
    """A header block of literals: the same bytes whenever the fields are the same."""
    return b"".join(literal(*field) for field in fields)


def _length(text: bytes) -> bytes:
    """An integer with a prefix of 7 bits, RFC 7541, section 5.1."""
    size = len(text)
    if size < 127:
        return bytes((size,))
    size -= 127
    parts = [127]
    while size >= 128:
        parts.append(size % 128 + 128)
        size //= 128
    parts.append(size)
    return bytes(parts)
