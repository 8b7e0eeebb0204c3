"""Header blocks: what is remembered must be what a decoder that saw everything would have said."""

import base64

import grpc
import pytest
from hpack import Decoder, Encoder, HPACKError
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http2.frame import ErrorCode, Violation
from gateway.http2.header import Fields, HeaderMemory, HeaderReader, first_fields, literal
from gateway.http2.metadata import (
    encode_timeout,
    read_binary,
    read_details,
    read_timeout,
    status_fields,
)

Block = list[tuple[bytes, bytes]]

names = st.sampled_from([b":path", b":method", b"te", b"grpc-timeout", b"user-agent", b"x-a", b"x-b", b"x-c"])
values = st.sampled_from([b"", b"POST", b"trailers", b"1S", b"a", b"b" * 100, b"c" * 900])
blocks = st.lists(st.lists(st.tuples(names, values), max_size=8), min_size=1, max_size=12)


def memory() -> HeaderMemory[Block]:
    """One that takes lists of 8 KiB, and of a block that is too long what comes first."""
    return HeaderMemory(copied, lambda block: copied(first_fields(block, 8192)), max_bytes=8192)


def copied(fields: Fields) -> Block:
    return [(bytes(name), bytes(value)) for name, value in fields]


@given(lists=blocks, acknowledged_at=st.integers(0, 12), huffman=st.booleans())
@settings(deadline=None)
def test_cached_and_stateful_decoding_agree(lists: list[Block], acknowledged_at: int, huffman: bool) -> None:
    """The peer uses its table until it acknowledges that there is none; two connections share the memory."""
    shared = memory()
    for _ in range(2):
        encoder, reader, oracle = Encoder(), HeaderReader(shared), Decoder(2**20)
        for number, fields in enumerate(lists):
            if number == acknowledged_at:
                encoder.header_table_size = 0
                reader.acknowledged()
            block = encoder.encode(fields, huffman=huffman)
            assert reader.read(block) == fields == list(oracle.decode(block, raw=True))


@given(lists=blocks)
@settings(deadline=None)
def test_a_table_that_should_be_empty_is_never_referred_to(lists: list[Block]) -> None:
    """A peer that goes on with its table gets the right headers or an error, whatever other connections remember."""
    shared = memory()
    honest, encoder = Encoder(), Encoder()
    honest.header_table_size = 0
    reader, other = HeaderReader(shared), HeaderReader(shared)
    reader.acknowledged()
    other.acknowledged()
    for fields in lists:
        other.read(honest.encode(fields))
        try:
            assert reader.read(encoder.encode(fields)) == fields
        except Violation as exc:
            assert exc.code is ErrorCode.COMPRESSION_ERROR  # noqa: PT017
            return


@given(block=st.binary(max_size=200), acknowledged=st.booleans())
@settings(deadline=None)
def test_any_bytes_are_headers_or_a_violation(block: bytes, acknowledged: bool) -> None:
    reader = HeaderReader(memory())
    if acknowledged:
        reader.acknowledged()
    for _ in range(2):
        try:
            fields = reader.read(block)
        except Violation:
            break
        oracle = Decoder(2**20)
        if acknowledged:
            oracle.max_allowed_table_size = oracle.header_table_size = 0
            assert fields == list(oracle.decode(block, raw=True))


def test_a_table_may_not_grow_again() -> None:
    reader = HeaderReader(memory())
    reader.acknowledged()
    with pytest.raises(Violation, match="COMPRESSION_ERROR"):
        reader.read(b"\x3f\x01\x82")


def test_memory_is_bounded_and_keeps_what_is_used() -> None:
    parsed: list[bytes] = []
    remembering = HeaderMemory(lambda fields: parsed.append(fields[0][1]), parsed.append, max_bytes=8192)
    reader = HeaderReader(remembering)
    reader.acknowledged()
    for number in range(5000):
        reader.read(literal(b"x-a", b"%d" % number))
        reader.read(literal(b"x-a", b"often"))
        assert len(remembering._young) + len(remembering._old) <= 1024
    assert len(parsed) > 5000
    reader.read(literal(b"x-a", b"a" * 2000))
    assert all(len(block) <= 1024 for block in remembering._young)


@given(fields=st.lists(st.tuples(names, values), max_size=8), huffman=st.booleans(), cut=st.integers(0, 4000))
@settings(deadline=None)
def test_what_comes_first_is_read_of_a_block_that_is_cut(fields: Block, huffman: bool, cut: int) -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    blocks = [encoder.encode([field], huffman=huffman) for field in fields]
    ends = [sum(map(len, blocks[: i + 1])) for i in range(len(blocks))]
    whole = b"".join(blocks)
    assert first_fields(whole[:cut], 10_000) == fields[: sum(end <= cut for end in ends)]
    assert first_fields(whole, 0) == []


def test_of_a_block_without_end_little_is_read() -> None:
    assert len(first_fields(b"\x83" * 10_000_000, 8192)) < 300


def test_a_long_list_ends_the_connection_until_the_table_is_empty() -> None:
    long = literal(b"x-a", b"a" * 9000)
    reader = HeaderReader(memory())
    for block in (long, literal(b"x-a", b"a") * 300, b"\x83" * 8193):
        with pytest.raises(Violation, match="ENHANCE_YOUR_CALM"):
            reader.read(block)
    reader.acknowledged()
    assert reader.read(literal(b"x-b", b"b") + long) == [(b"x-b", b"b")]


@given(name=st.binary(min_size=1, max_size=300), value=st.binary(max_size=1000))
def test_literals_are_hpack(name: bytes, value: bytes) -> None:
    assert list(Decoder().decode(b"\x20" + literal(name, value), raw=True)) == [(name, value)]


def test_the_library_is_strict_where_we_count_on_it() -> None:
    decoder = Decoder()
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    decoder.decode(b"\x40\x01a\x01b", raw=True)
    with pytest.raises(HPACKError):
        decoder.decode(b"\xbe", raw=True)


@given(details=st.text(max_size=200))
def test_details_come_back(details: str) -> None:
    fields = dict(Decoder().decode(status_fields(grpc.StatusCode.NOT_FOUND, details), raw=True))
    assert read_details(fields.get(b"grpc-message", b"")) == details
    assert all(0x20 <= byte < 0x7F for byte in fields.get(b"grpc-message", b""))


@given(timeout_s=st.floats(0, 1e7))
def test_timeouts_come_back_a_little_longer(timeout_s: float) -> None:
    assert timeout_s <= read_timeout(encode_timeout(timeout_s)) <= timeout_s + (0.0011 if timeout_s < 9e4 else 1.01)


def test_timeouts_that_are_none() -> None:
    assert encode_timeout(-1) == b"1m"
    assert encode_timeout(1e12) == b"99999999S"
    for value in (b"", b"5", b"S", b"123456789S", b"-1S", b"1.5S", b"1s"):
        with pytest.raises(ValueError, match="grpc-timeout"):
            read_timeout(value)


@given(value=st.binary(max_size=50))
def test_binary_metadata_may_come_without_padding(value: bytes) -> None:
    encoded = base64.b64encode(value)
    assert read_binary(encoded) == read_binary(encoded.rstrip(b"=")) == value
