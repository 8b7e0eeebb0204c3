"""Header blocks: decoded once and remembered, where it is certain that the same bytes mean the same headers.

We announce a dynamic table of size 0. Until the peer has acknowledged that, its blocks may refer to earlier ones, so
one decoder reads them all, in order, and nothing is remembered. What follows the acknowledgement may refer to nothing:
each block is decoded by itself, by a decoder that has an empty table and has seen no other block. What it means is then
a function of its bytes alone and may be remembered for every connection; a reference to the table is an error. (A
peer that never had a table needn't say, as RFC 9113 wants it to, that it has shrunk it: some don't.)

Source: RFC 7541; RFC 9113, section 4.3.
"""

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError

from gateway.http2.frame import ErrorCode, Violation

MAX_HEADER_BYTES: Final = 8192  # of one list, as RFC 9113 counts them; gRPC's own default

Fields = Sequence[tuple[bytes, bytes]]
Head = TypeVar("Head")

# Our own blocks use no table: the first of a connection says so, and may then be as constant as all others.
EMPTY_TABLE: Final = b"\x20"

_MAX_REMEMBERED = 512  # in each of two generations
_MAX_REMEMBERED_BYTES = 1024
_LITERAL = b"\x00"  # without indexing, the name as a literal


class HeaderMemory(Generic[Head]):
    """What blocks mean that were read against an empty table; shared by all connections of one side."""

    __slots__ = ("_old", "_young", "parse")

    def __init__(self, parse: Callable[[Fields], Head]) -> None:
        self.parse = parse
        self._young: dict[bytes, Head] = {}
        self._old: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """The head in a block; raises HPACKError."""
        head = self._young.get(block)
        if head is None:
            head = self._old.get(block)
            if head is None:
                head = self.parse(_decode_alone(block))
            if len(block) <= _MAX_REMEMBERED_BYTES:
                self._remember(block, head)
        return head

    def _remember(self, block: bytes, head: Head) -> None:
        if len(self._young) >= _MAX_REMEMBERED:
            self._old, self._young = self._young, {}
        self._young[block] = head


class HeaderReader(Generic[Head]):
    """The header blocks of one connection, in the order in which they come."""

    __slots__ = ("_decoder", "_memory")

    def __init__(self, memory: HeaderMemory[Head]) -> None:
        self._memory = memory
        self._decoder: Decoder | None = Decoder(MAX_HEADER_BYTES)

    def acknowledged(self) -> None:
        """The peer has agreed to keep no table: no block after this one may refer to it."""
        self._decoder = None

    def read(self, block: bytes) -> Head:
        """The head in the next block; raises Violation."""
        try:
            if self._decoder is None:
                return self._memory.read(block)
            return self._memory.parse(list(self._decoder.decode(block, raw=True)))
        except OversizedHeaderListError as exc:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, f"headers of more than {MAX_HEADER_BYTES} bytes") from exc
        except HPACKError as exc:
            raise Violation(ErrorCode.COMPRESSION_ERROR, f"a header block can't be read: {exc}") from exc


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


def _decode_alone(block: bytes) -> Fields:
    decoder = Decoder(MAX_HEADER_BYTES)
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    return list(decoder.decode(block, raw=True))
