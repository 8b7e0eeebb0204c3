"""Header blocks: decoded once and remembered, where it is certain that the same bytes mean the same headers.

We announce a dynamic table of size 0. Until the peer has acknowledged that, its blocks may refer to earlier ones, so
one decoder reads them all, in order, and nothing is remembered. What follows the acknowledgement may refer to nothing:
each block is decoded by itself, by a decoder that has an empty table and has seen no other block. What it means is then
a function of its bytes alone and may be remembered for every connection; a reference to the table is an error. (A
peer that never had a table needn't say, as RFC 9113 wants it to, that it has shrunk it: some don't.) So a block that is
too long needn't be read for the sake of the next, and only its stream fails.

Source: RFC 7541; RFC 9113, section 4.3.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Generic, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.hpack import decode_integer

from gateway.http2.frame import ErrorCode, Violation

Fields = Sequence[tuple[bytes, bytes]]
Head = TypeVar("Head")

# Our own blocks use no table: the first of a connection says so, and may then be as constant as all others.
EMPTY_TABLE: Final = b"\x20"

_MAX_REMEMBERED = 512  # in each of two generations
_MAX_REMEMBERED_BYTES = 1024
_LITERAL = b"\x00"  # without indexing, the name as a literal
_FIELD_BYTES = 32  # what RFC 9113 adds to each field's size
_MAX_INTEGER_BYTES = 10


class HeaderMemory(Generic[Head]):
    """What blocks mean that were read against an empty table; shared by all connections of one side.

    A list of more than `max_bytes`, as RFC 9113 counts them, is too long, and so is a longer block: there is no block
    that is longer than its list, unless someone works at it. `parse_front` says what such a one means; it is given the
    block, or as much of it as was kept.
    """

    __slots__ = ("_old", "_parse_front", "_young", "max_bytes", "parse")

    def __init__(
        self, parse: Callable[[Fields], Head], parse_front: Callable[[bytes], Head], *, max_bytes: int
    ) -> None:
        self.parse = parse
        self.max_bytes = max_bytes
        self._parse_front = parse_front
        self._young: dict[bytes, Head] = {}
        self._old: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """The head in a block; raises HPACKError."""
        head = self._young.get(block)
        if head is None:
            head = self._old.get(block)
            if head is None:
                head = self._parse_alone(block)
            if len(block) <= _MAX_REMEMBERED_BYTES:
                self._remember(block, head)
        return head

    def _parse_alone(self, block: bytes) -> Head:
        if len(block) <= self.max_bytes:
            with suppress(OversizedHeaderListError):
                return self.parse(list(_decoder_alone(self.max_bytes).decode(block, raw=True)))
        return self._parse_front(block)

    def _remember(self, block: bytes, head: Head) -> None:
        if len(self._young) >= _MAX_REMEMBERED:
            self._old, self._young = self._young, {}
        self._young[block] = head


class HeaderReader(Generic[Head]):
    """The header blocks of one connection, in the order in which they come."""

    __slots__ = ("_decoder", "_memory")

    def __init__(self, memory: HeaderMemory[Head]) -> None:
        self._memory = memory
        self._decoder: Decoder | None = Decoder(memory.max_bytes)

    def acknowledged(self) -> None:
        """The peer has agreed to keep no table: no block after this one may refer to it."""
        self._decoder = None

    def read(self, block: bytes) -> Head:
        """The head in the next block; raises Violation."""
        try:
            if self._decoder is None:
                return self._memory.read(block)
            if len(block) > self._memory.max_bytes:
                raise OversizedHeaderListError
            return self._memory.parse(list(self._decoder.decode(block, raw=True)))
        except OversizedHeaderListError as exc:  # what the next block refers to isn't known any more
            reason = f"headers of more than {self._memory.max_bytes} bytes"
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, reason) from exc
        except HPACKError as exc:
            raise Violation(ErrorCode.COMPRESSION_ERROR, f"a header block can't be read: {exc}") from exc


def first_fields(block: bytes, max_bytes: int) -> Fields:
    """The whole fields at the front of a block, read against an empty table; about `max_bytes` of them."""
    decoder = _decoder_alone(max_bytes)
    fields: list[tuple[bytes, bytes]] = []
    start = size = 0
    with suppress(HPACKError):
        while start < len(block) and size < max_bytes:
            stop = _field_end(block, start)
            fields += decoder.decode(block[start:stop], raw=True)
            size += _FIELD_BYTES + stop - start
            start = stop
    return fields


def literal(name: bytes, value: bytes) -> bytes:
    """One header of a block of ours."""
    return b"".join((_LITERAL, _length(len(name)), name, _length(len(value)), value))


def _length(length: int) -> bytes:
    """A string's length as RFC 7541, section 5.1, writes integers with a prefix of 7 bits."""
    if length < 0x7F:
        return length.to_bytes(1, "big")
    length -= 0x7F
    out = bytearray(b"\x7f")
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)


def _decoder_alone(max_bytes: int) -> Decoder:
    decoder = Decoder(max_bytes)
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    return decoder


def _field_end(block: bytes, start: int) -> int:
    """Where the field ends that begins here (RFC 7541, section 6), be it all there or not; raises HPACKError."""
    first = block[start]
    bits = 7 if first & 0x80 else 6 if first & 0x40 else 5 if first & 0x20 else 4
    index, size = decode_integer(block[start : start + _MAX_INTEGER_BYTES], bits)
    pos = start + size
    if bits in (6, 4):  # a value, and a name unless it's the table's
        for _ in range(1 if index else 2):
            length, size = decode_integer(block[pos : pos + _MAX_INTEGER_BYTES], 7)
            pos += size + length
    return pos
