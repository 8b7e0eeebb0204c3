"""Frames out of the bytes of a connection.

The frames of small calls are parsed where they lie. A long DATA frame is passed on piece by piece, as it comes: what is
kept of an unfinished frame is never more than a small one.

Source: RFC 9113, sections 4 and 6.
"""

import asyncio
from typing import Final

from gateway.http2 import frame as f
from gateway.http2.frame import HEAD, HEAD_BYTES, ErrorCode, Violation
from gateway.http2.stream import Stream

MAX_DATA_FRAME_BYTES: Final = 1024 * 1024  # what we let the peer put into one frame; all others must be short

_PRIORITY_BYTES = 5
_ANY = -1


class FrameReader(asyncio.Protocol):
    """Reads frames. Whoever extends it says what is done with them.

    `preface`: what the peer begins with, before its first frame. `dead`: nothing is read any more.
    """

    __slots__ = (
        "_block",
        "_block_ended",
        "_block_stream_id",
        "_expected",
        "_owed",
        "_owed_ends",
        "_owed_padding",
        "_owed_stream",
        "_preface",
        "_tail",
        "dead",
    )

    def __init__(self, preface: bytes) -> None:
        self.dead = False
        self._preface = preface
        self._expected = f.SETTINGS
        self._tail = b""
        self._block = bytearray()
        self._block_stream_id, self._block_ended = 0, False
        self._owed = self._owed_padding = 0  # of a DATA frame that has begun
        self._owed_stream: Stream | None = None
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
            elif size > f.DEFAULT_FRAME_BYTES:
                raise Violation(
                    ErrorCode.FRAME_SIZE_ERROR, f"expected at most {f.DEFAULT_FRAME_BYTES} bytes, got {size}"
                )
            elif stop > end:
                break
            elif kind == f.HEADERS and flags & (f.END_HEADERS | f.PADDED | f.HAS_PRIORITY) == f.END_HEADERS:
                self.block_received(real(stream_id), data[start:stop], ended=flags & f.END_STREAM != 0)
            else:
                self._other(kind, flags, stream_id, data[start:stop])
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
        if kind != self._expected or (kind == f.CONTINUATION and stream_id != self._block_stream_id):
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
        """Read on in a DATA frame; returns where it, or what is here, ends."""
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

    def _other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == f.HEADERS:
            self._begin_block(flags, stream_id, payload)
        elif kind == f.CONTINUATION:
            self._continue_block(flags, payload)
        else:
            self.control_received(kind, flags, stream_id, payload)

    def _begin_block(self, flags: int, stream_id: int, payload: bytes) -> None:
        start, stop = 0, len(payload)
        if flags & f.PADDED:
            if not payload or payload[0] >= stop:
                raise Violation(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
            start, stop = 1, stop - payload[0]
        if flags & f.HAS_PRIORITY:
            start += _PRIORITY_BYTES
        if start > stop:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "HEADERS that are too short")
        self._block = bytearray()
        self._block_stream_id, self._block_ended = real(stream_id), flags & f.END_STREAM != 0
        self._continue_block(flags, payload[start:stop])

    def _continue_block(self, flags: int, payload: bytes) -> None:
        if not self._block_stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += payload
        if len(self._block) > f.DEFAULT_FRAME_BYTES:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "a header block that doesn't end")
        if not flags & f.END_HEADERS:
            self._expected = f.CONTINUATION
            self.nuisance()
            return
        block, stream_id = bytes(self._block), self._block_stream_id
        self._block, self._block_stream_id = bytearray(), 0
        self.block_received(stream_id, block, ended=self._block_ended)


def real(stream_id: int) -> int:
    """A stream's number; raises Violation for that of the connection."""
    if not stream_id:
        raise Violation(ErrorCode.PROTOCOL_ERROR, "a frame of a stream on stream 0")
    return stream_id
