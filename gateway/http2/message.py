"""Messages out of the bytes of a stream: each has a prefix of five bytes, and comes in as many pieces as it likes.

Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import asyncio
import struct
import zlib
from dataclasses import dataclass
from typing import Final

PREFIX: Final = struct.Struct(">BI")

_SMALL_BYTES = 4096
_INLINE_BYTES = 4 * 1024  # what is longer is unfolded in a thread
_GZIP = 31  # zlib's name for the format


class MessageError(Exception):
    """What came is no message."""


class MessageTooLarge(MessageError):
    """A message, or what it unfolds to, is longer than the limit."""


@dataclass(frozen=True, slots=True)
class Compressed:
    """A message as it came."""

    data: bytes


Message = bytes | Compressed


class MessageReader:
    """Puts the messages of one stream together. `missing` is how much of the current one hasn't come yet."""

    __slots__ = ("_compressed", "_head", "_max_bytes", "_parts", "missing")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._head = b""
        self._compressed = False
        self._parts: list[bytes | bytearray | memoryview] = []
        self.missing = 0

    @property
    def idle(self) -> bool:
        """Whether it is between two messages."""
        return not self._head

    def feed(self, data: bytes, start: int, stop: int) -> list[Message]:
        """Take `data[start:stop]`; returns the messages that end in it. Raises MessageError."""
        messages: list[Message] = []
        while start < stop:
            if len(self._head) < PREFIX.size:
                taken = min(PREFIX.size - len(self._head), stop - start)
                self._head += data[start : start + taken]
                start += taken
                if len(self._head) < PREFIX.size:
                    break
                self._begin()
            taken = min(self.missing, stop - start)
            if taken:
                self._keep(data, start, start + taken)
                self.missing -= taken
                start += taken
            if not self.missing:
                messages.append(self._end())
        return messages

    def _begin(self) -> None:
        flag, size = PREFIX.unpack(self._head)
        check_size(size, self._max_bytes)
        if flag > 1:
            raise MessageError(f"expected a message that begins with 0 or 1, got {flag}")
        self._compressed, self.missing = flag == 1, size

    def _keep(self, data: bytes, start: int, stop: int) -> None:
        size = stop - start
        if size < _SMALL_BYTES:  # a list of many small pieces would be far larger than what they hold
            last = self._parts[-1] if self._parts else None
            if not isinstance(last, bytearray):
                last = bytearray()
                self._parts.append(last)
            last += memoryview(data)[start:stop]
        elif 2 * size > len(data):  # a view keeps all of `data`
            self._parts.append(memoryview(data)[start:stop])
        else:
            self._parts.append(data[start:stop])

    def _end(self) -> Message:
        whole = b"".join(self._parts)
        self._head, self._parts = b"", []
        return Compressed(whole) if self._compressed else whole


def check_size(size: int, max_bytes: int) -> None:
    """Raise MessageTooLarge for what is longer than the limit."""
    if size > max_bytes:
        raise MessageTooLarge(f"expected a message of at most {max_bytes} bytes, got {size}")


def wire_bytes(message: Message) -> int:
    """How many bytes of a stream a message was."""
    return PREFIX.size + len(message if isinstance(message, bytes) else message.data)


async def unfold(message: Compressed, max_bytes: int) -> bytes:
    """What a gzipped message holds; raises MessageError."""
    if len(message.data) <= _INLINE_BYTES:
        return _gunzip(message.data, max_bytes)
    return await asyncio.to_thread(_gunzip, message.data, max_bytes)


def _gunzip(data: bytes, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(_GZIP)
    try:
        whole = stream.decompress(data, max_bytes + 1)
    except zlib.error as exc:
        raise MessageError("expected a gzipped message, as grpc-encoding says") from exc
    if len(whole) > max_bytes:
        raise MessageTooLarge(f"expected a message of at most {max_bytes} bytes, got one that unfolds to more")
    if not stream.eof or stream.unused_data:
        raise MessageError("expected a gzipped message that ends where its data does")
    return whole
