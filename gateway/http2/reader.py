"""Frames out of the bytes of a connection.

The frames of small calls are parsed where they lie. A long DATA frame is passed on piece by piece, as it comes, and so
is a header block that isn't all here, of which no more is kept than may be read: what is kept of an unfinished frame is
never more than a small one.

Source: RFC 9113, sections 4 and 6.
"""

import asyncio
from typing import Final

from gateway.http2 import frame as f
from gateway.http2.frame import HEAD, HEAD_BYTES, ErrorCode, Violation
from gateway.http2.stream import Stream

MAX_FRAME_BYTES: Final = 1024 * 1024  # of data and headers; all others must be short

_PRIORITY_BYTES = 5
_ANY = -1
_ODD = f.END_HEADERS | f.PADDED | f.HAS_PRIORITY  # nearly all HEADERS have but the first of these flags


class HeaderBlock:
    """A header block that comes in pieces, which are given to it as to a stream."""

    __slots__ = ("_ends_stream", "_reader", "closed", "ended", "front", "size", "stream_id")

    def __init__(self, reader: "FrameReader", stream_id: int, *, ends_stream: bool) -> None:
        self._reader = reader
        self._ends_stream = ends_stream
        self.stream_id = stream_id
        self.size = 0  # of all that was announced
        self.front = bytearray()
        self.closed = self.ended = False

    def data_received(self, data: bytes, start: int, stop: int) -> None:
        """Keep `data[start:stop]` as far as it may be read: one byte more shows that there was more."""
        room = self._reader.max_header_bytes + 1 - len(self.front)
        self.front += data[start : min(stop, start + room)]

    def end_received(self) -> None:
        """Pass the block on."""
        self._reader.block = None
        self._reader.block_received(self.stream_id, bytes(self.front), ended=self._ends_stream)


class FrameReader(asyncio.Protocol):
    """Reads frames. Whoever extends it says what is done with them.

    `preface`: what the peer begins with, before its first frame. `dead`: nothing is read any more. Of a header block,
    `max_header_bytes` are kept and the rest is passed over; one of more than `max_block_bytes` is a violation.
    """

    __slots__ = (
        "_expected",
        "_max_block_bytes",
        "_owed",
        "_owed_ends",
        "_owed_padding",
        "_owed_stream",
        "_preface",
        "_tail",
        "block",
        "dead",
        "max_header_bytes",
    )

    def __init__(self, preface: bytes, *, max_header_bytes: int, max_block_bytes: int) -> None:
        self.dead = False
        self.max_header_bytes = max_header_bytes
        self.block: HeaderBlock | None = None
        self._max_block_bytes = max_block_bytes
        self._preface = preface
        self._expected = f.SETTINGS
        self._tail = b""
        self._owed = self._owed_padding = 0  # of a frame of data or headers that has begun
        self._owed_stream: Stream | HeaderBlock | None = None
        self._owed_ends = False

    def data_announced(self, stream_id: int, size: int, *, ends: bool) -> Stream | None:
        """A DATA frame begins; returns the stream that its content goes to, if there is one."""
        raise NotImplementedError

    def block_received(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        """A whole header block has come."""
        raise NotImplementedError

    def control_received(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """A frame that is neither data nor headers has come."""
        raise NotImplementedError

    def nuisance(self) -> None:
        """Something has come that costs us work and brings nothing."""
        raise NotImplementedError

    def read(self, data: bytes) -> None:
        """Read the next bytes; raises Violation."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        pos, end = 0, len(data)
        if self._preface:
            pos = self._read_preface(data)
            if self._preface:
                self._tail = data
                return
        if self._owed or self._owed_padding:
            pos = self._read_owed(data, pos)
            if self.dead:
                return
        while end - pos >= HEAD_BYTES:
            size, flags, stream_id = HEAD.unpack_from(data, pos)
            kind = size & 0xFF
            size >>= 8
            stream_id &= f.MAX_STREAM_ID
            start = pos + HEAD_BYTES
            stop = start + size
            if self._expected != _ANY:
                self._check_expected(kind, stream_id)
            if kind == f.DATA:
                if stop <= end and not flags & f.PADDED:
                    self._data(stream_id, size, data, start, stop, flags & f.END_STREAM != 0)
                elif (begun := self._begin_data(stream_id, flags, size, data, start)) is None:
                    break
                else:
                    stop = self._read_owed(data, begun)
            elif kind == f.HEADERS and flags & _ODD == f.END_HEADERS and stop <= end and size <= f.DEFAULT_FRAME_BYTES:
                self.block_received(real(stream_id), data[start:stop], ended=flags & f.END_STREAM != 0)
            elif kind in (f.HEADERS, f.CONTINUATION):
                if (begun := self._begin_headers(kind, flags, stream_id, size, data, start)) is None:
                    break
                stop = self._read_owed(data, begun)
            elif size > f.DEFAULT_FRAME_BYTES:
                raise Violation(
                    ErrorCode.FRAME_SIZE_ERROR, f"expected at most {f.DEFAULT_FRAME_BYTES} bytes, got {size}"
                )
            elif stop > end:
                break
            else:
                self.control_received(kind, flags, stream_id, data[start:stop])
            if self.dead:
                return
            pos = stop
        if pos < end:
            self._tail = data[pos:]

    def _read_preface(self, data: bytes) -> int:
        size = len(self._preface)
        if data[:size] != self._preface[: len(data)]:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "expected the preface of HTTP/2")
        if len(data) < size:
            return 0
        self._preface = b""
        return size

    def _check_expected(self, kind: int, stream_id: int) -> None:
        if kind != self._expected or (self.block is not None and stream_id != self.block.stream_id):
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"expected a frame of kind {self._expected}, got {kind}")
        self._expected = _ANY

    def _data(self, stream_id: int, size: int, data: bytes, start: int, stop: int, ends: bool) -> None:
        stream = self.data_announced(stream_id, size, ends=ends)
        if stream is not None:
            if stop > start:
                stream.data_received(data, start, stop)
            if ends and not stream.closed:
                stream.ended = True
                stream.end_received()

    def _begin_data(self, stream_id: int, flags: int, size: int, data: bytes, start: int) -> int | None:
        """Begin a DATA frame that is padded or not all here; returns where its content begins, if that is here."""
        padding = own = 0
        if flags & f.PADDED:
            if start >= len(data):
                return None
            own, padding = 1, data[start]
            if own + padding > size:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
        self._owed_stream = self.data_announced(stream_id, size, ends=flags & f.END_STREAM != 0)
        self._owed, self._owed_padding = size - own - padding, padding
        self._owed_ends = flags & f.END_STREAM != 0
        return start + own

    def _read_owed(self, data: bytes, pos: int) -> int:
        """Read on in a frame of data or headers; returns where it, or what is here, ends."""
        stop = min(pos + self._owed, len(data))
        stream = self._owed_stream
        if stream is not None and stop > pos and not stream.closed:
            stream.data_received(data, pos, stop)
        self._owed -= stop - pos
        skipped = 0 if self._owed else min(self._owed_padding, len(data) - stop)
        self._owed_padding -= skipped
        if not self._owed and not self._owed_padding:
            self._owed_stream = None
            if stream is not None and self._owed_ends and not stream.closed:
                stream.ended = True
                stream.end_received()
        return stop + skipped

    def _begin_headers(self, kind: int, flags: int, stream_id: int, size: int, data: bytes, start: int) -> int | None:
        """Begin a frame of a header block that isn't all here, or isn't plain; returns where its fields begin."""
        padded = kind == f.HEADERS and flags & f.PADDED != 0
        own = padded + (_PRIORITY_BYTES if kind == f.HEADERS and flags & f.HAS_PRIORITY else 0)
        if not own <= size <= MAX_FRAME_BYTES:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"a frame of headers of {size} bytes")
        if start + own > len(data):
            return None
        padding = data[start] if padded else 0
        if own + padding > size:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
        if kind == f.HEADERS:
            self.block = HeaderBlock(self, real(stream_id), ends_stream=flags & f.END_STREAM != 0)
        elif self.block is None:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block = self.block
        block.size += size
        if block.size > self._max_block_bytes:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of more than {self._max_block_bytes} bytes")
        self._owed_stream = block
        self._owed, self._owed_padding = size - own - padding, padding
        self._owed_ends = flags & f.END_HEADERS != 0
        if not self._owed_ends:
            self._expected = f.CONTINUATION
            self.nuisance()
        return start + own


def real(stream_id: int) -> int:
    """A stream's number; raises Violation for that of the connection."""
    if not stream_id:
        raise Violation(ErrorCode.PROTOCOL_ERROR, "a frame of a stream on stream 0")
    return stream_id
