"""The client and servers that go away, come back, answer what is none, or misbehave."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import grpc
import grpc.aio
import pytest

from gateway.http2 import client as client_module
from gateway.http2 import frame as f
from gateway.http2.client import CallError, GrpcChannel
from gateway.http2.frame import ErrorCode
from gateway.http2.header import literal
from tests.gateway.http2_service import (
    ECHO,
    FAIL,
    WAIT,
    Behaviour,
    channel_to,
    error_of,
    ours,
    raw_server,
    request_of,
    theirs,
)


async def test_a_server_that_is_not_there_and_then_is() -> None:
    behaviour = Behaviour()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with channel_to(port) as channel:
        for _ in range(2):
            error = await error_of(channel.unary(ECHO, b"", 5))
            assert (error.code, error.unsent) == (grpc.StatusCode.UNAVAILABLE, True)
        async with ours(behaviour, port):
            assert await until_answered(channel) == b"on"
            call = asyncio.create_task(channel.unary(WAIT, b"", 5))
            await behaviour.entered.acquire()
        error = await error_of(call)
        assert (error.code, error.unsent) == (grpc.StatusCode.UNAVAILABLE, False)
        async with ours(behaviour, port):
            assert await until_answered(channel) == b"on"


async def until_answered(channel: GrpcChannel) -> bytes:
    async with asyncio.timeout(10):
        while True:
            try:
                return await channel.unary(ECHO, b"on", 5)
            except CallError as exc:
                if not exc.unsent:
                    raise
                await asyncio.sleep(0)


async def test_what_goaway_leaves_out_is_sent_once_more_over_a_new_connection() -> None:
    taken: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(0)
        while True:
            stream_id = await request_of(reader)
            taken[-1] += 1
            if len(taken) == 1:
                writer.write(f.goaway(1, ErrorCode.NO_ERROR))  # and never an answer
            elif len(taken) == 2:
                writer.write(f.goaway(0, ErrorCode.NO_ERROR))
            else:
                writer.write(_nothing(stream_id))

    async with raw_server(answer) as port, channel_to(port) as channel:
        calls = [asyncio.create_task(channel.unary(ECHO, b"", 0.5)) for _ in range(2)]
        second = await error_of(calls[1])
        assert (second.code, second.unsent, second.lost) == (grpc.StatusCode.UNAVAILABLE, True, True)
        assert taken == [2, 1]
        assert not calls[0].done()
        first = await error_of(calls[0])
        assert (first.code, first.unsent, first.lost) == (grpc.StatusCode.DEADLINE_EXCEEDED, False, False)
        assert await channel.unary(ECHO, b"", 5) == b""
        assert taken == [2, 1, 1]


def _nothing(stream_id: int) -> bytes:
    """An answer that holds nothing."""
    trailers = headers(stream_id, literal(b"grpc-status", b"0"), f.END_STREAM)
    return headers(stream_id, b"\x88") + f.frame(f.DATA, 0, stream_id, bytes(5)) + trailers


@pytest.mark.parametrize(
    ("frames", "code", "unsent"),
    [
        (lambda s: f.rst_stream(s, ErrorCode.REFUSED_STREAM), "UNAVAILABLE", True),
        (lambda s: f.rst_stream(s, ErrorCode.CANCEL), "CANCELLED", False),
        (lambda s: f.rst_stream(s, ErrorCode.INTERNAL_ERROR), "INTERNAL", False),
        (lambda s: headers(s, literal(b":status", b"503"), f.END_STREAM), "UNAVAILABLE", False),
        (lambda s: headers(s, literal(b":status", b"404")), "UNIMPLEMENTED", False),
        (lambda s: headers(s, b"\x88", f.END_STREAM), "UNKNOWN", False),
        (lambda s: headers(s, b"\x88" + literal(b"grpc-status", b"0"), f.END_STREAM), "INTERNAL", False),
        (lambda s: headers(s, b"\x88" + literal(b"grpc-status", b"99"), f.END_STREAM), "UNKNOWN", False),
        (lambda s: headers(s, b"\x88") + f.frame(f.DATA, f.END_STREAM, s, bytes(5)), "INTERNAL", False),
        (lambda s: headers(s, b"\x88") + f.frame(f.DATA, 0, s, b"\x01" + bytes(4)), "INTERNAL", False),
        (lambda s: f.frame(f.PUSH_PROMISE, f.END_HEADERS, s, bytes(4)), "UNAVAILABLE", False),
        (lambda s: f.frame(f.DATA, 0, s + 2, b""), "UNAVAILABLE", False),
        (lambda s: f.settings({f.MAX_FRAME_SIZE: 1}), "UNAVAILABLE", False),
    ],
)
async def test_answers_that_are_none(frames: Callable[[int], bytes], code: str, unsent: bool) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(frames(await request_of(reader)))

    async with raw_server(answer) as port, channel_to(port) as channel:
        error = await error_of(channel.unary(ECHO, b"", 5))
        assert (error.code.name, error.unsent) == (code, unsent)


def headers(stream_id: int, block: bytes, flags: int = 0) -> bytes:
    return f.frame(f.HEADERS, flags | f.END_HEADERS, stream_id, block)


@pytest.mark.parametrize("size", [9_000, 60_000, 70_000, 5_000_000])
async def test_an_error_of_any_length_fails_its_own_call(size: int) -> None:
    """The library's servers send all of a text, whatever the peer says that it takes."""
    behaviour = Behaviour()
    async with theirs(behaviour) as port, channel_to(port) as channel:
        neighbour = asyncio.create_task(channel.unary(WAIT, b"on", 20))
        await behaviour.entered.acquire()
        error = await error_of(channel.unary(FAIL, b"%d" % size, 20))
        said = "x" * size if size < 64 * 1024 else "the server answered with headers of more than 65536 bytes"
        assert (error.code, error.details, error.lost) == (grpc.StatusCode.FAILED_PRECONDITION, said, False)
        behaviour.gate.set()
        assert await neighbour == b"on"
        assert len(channel._connections) == 1


LONG = literal(b"x-long", b"a" * 100_000)
OK = literal(b"grpc-status", b"0")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([(b"\x88", 0), (LONG + OK, f.END_STREAM)], "UNKNOWN: the server answered with headers of more than"),
        ([(b"\x88" + OK + LONG, f.END_STREAM)], "INTERNAL: expected an answer, got none"),
        ([(LONG, 0)], "UNKNOWN: expected the HTTP status 200, got None"),
        ([(b"\x88" + literal(b"grpc-message", b"why") + LONG, f.END_STREAM)], "UNKNOWN: why"),
        ([(b"\x88", 0), (bytes(100_000), f.END_STREAM)], "UNKNOWN: the server answered with headers of more than"),
    ],
)
async def test_headers_that_are_too_long_to_read(answer: list[tuple[bytes, int]], error: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f.frame(f.SETTINGS, f.ACK, 0))
        stream_id = await request_of(reader)
        writer.write(b"".join(headers(stream_id, *part) for part in answer))
        writer.write(_nothing(await request_of(reader)))

    async with raw_server(serve) as port, channel_to(port) as channel:
        assert str(await error_of(channel.unary(ECHO, b"", 5))).startswith(error)
        assert await channel.unary(ECHO, b"", 5) == b""


async def test_an_answer_between_long_headers_is_one() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f.frame(f.SETTINGS, f.ACK, 0))
        stream_id = await request_of(reader)
        first, last = headers(stream_id, b"\x88" + LONG), headers(stream_id, OK + LONG, f.END_STREAM)
        writer.write(first + f.frame(f.DATA, 0, stream_id, bytes(5)) + last)
        await reader.read()

    async with raw_server(serve) as port, channel_to(port) as channel:
        assert await channel.unary(ECHO, b"", 5) == b""


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_headers_that_do_not_end_or_come_too_early_end_the_connection(
    monkeypatch: pytest.MonkeyPatch, acknowledged: bool
) -> None:
    monkeypatch.setattr(client_module, "MAX_BLOCK_BYTES", 1_000_000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream_id = await request_of(reader)
        if acknowledged:
            writer.write(f.frame(f.SETTINGS, f.ACK, 0) + f.frame(f.HEADERS, 0, stream_id, b"\x88"))
            writer.write(f.frame(f.CONTINUATION, 0, stream_id, bytes(16_000)) * 63)
        else:
            writer.write(headers(stream_id, b"\x88" + LONG))
        await reader.read()

    async with raw_server(serve) as port, channel_to(port) as channel:
        error = await error_of(channel.unary(ECHO, b"", 5))
        assert (error.code, error.lost) == (grpc.StatusCode.UNAVAILABLE, True)
        assert error.details.startswith("ENHANCE_YOUR_CALM: ")


async def test_windows_that_shrink_and_grow() -> None:
    message = b"0123456789" * 50
    sizes: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received, flags = b"", 0
        while not flags & f.END_STREAM:
            head, flags, stream_id = f.HEAD.unpack(await reader.readexactly(f.HEAD_BYTES))
            payload = await reader.readexactly(head >> 8)
            if head & 0xFF != f.DATA:
                flags = 0
                continue
            received += payload
            sizes.append(len(payload))
            if len(sizes) == 1:  # takes back 9 of the 10 that it gave: there are none left, and 9 are owed
                writer.write(f.settings({f.INITIAL_WINDOW_SIZE: 1}) + f.window_update(stream_id, 9))
            writer.write(f.window_update(stream_id, 20))
        # The answer in frames of seven bytes, each of them padded.
        cut = (received[i : i + 7] for i in range(0, len(received), 7))
        data = (f.frame(f.DATA, f.PADDED, stream_id, b"\x02" + part + b"\0\0") for part in cut)
        trailers = headers(stream_id, literal(b"grpc-status", b"0"), f.END_STREAM)
        writer.write(headers(stream_id, b"\x88") + b"".join(data) + trailers)
        await reader.read()

    greeting = f.settings({f.INITIAL_WINDOW_SIZE: 10})
    async with raw_server(answer, greeting) as port, channel_to(port) as channel:
        assert await channel.unary(ECHO, message, 5) == message
        assert sizes[:3] == [10, 20, 20]


async def test_no_http2_at_all() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(answer, b"HTTP/1.1 400 Bad Request\r\n\r\n") as port, channel_to(port) as channel:
        error = await error_of(channel.unary(ECHO, b"", 5))
        assert (error.code, error.unsent) == (grpc.StatusCode.UNAVAILABLE, True)


async def test_calls_that_are_lost_leave_the_reason_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    behaviour = Behaviour()
    async with ours(behaviour) as port, channel_to(port) as channel:
        assert await channel.unary(ECHO, b"x", 5) == b"x"
        call = asyncio.create_task(channel.unary(WAIT, b"", 5))
        await behaviour.entered.acquire()
        (connection,) = channel._connections
        connection.data_received(b"\0" * 9)  # DATA of stream 0
        assert (await error_of(call)).code is grpc.StatusCode.UNAVAILABLE
    (line,) = [record.message for record in caplog.records if record.name == "gateway.http2.client"]
    reason = "PROTOCOL_ERROR: a frame of a stream on stream 0"
    assert line == f"a connection to 127.0.0.1:{port} ended with 1 calls in hand: {reason}"


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings", ": ENHANCE_YOUR_CALM too_many_pings"),
        (ErrorCode.NO_ERROR, "max_age", ": NO_ERROR max_age"),
        (ErrorCode.PROTOCOL_ERROR, "", ": PROTOCOL_ERROR"),
        (99, "a\r\n" + "b" * 16_000, ": 99 a??" + "b" * 197),
        (ErrorCode.NO_ERROR, "", ""),
    ],
)
async def test_why_a_server_goes_away_is_in_the_error_and_the_log(
    caplog: pytest.LogCaptureFixture, code: ErrorCode, text: str, said: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(f.goaway(1, code, text))
        writer.close()

    caplog.set_level("INFO", "gateway.http2.client")
    async with raw_server(serve) as port, channel_to(port) as channel:
        error = await error_of(channel.unary(ECHO, b"", 5))
        reason = f"the server is going away{said}; the connection was closed by the peer"
        assert (error.code, error.details, error.lost) == (grpc.StatusCode.UNAVAILABLE, reason, True)
        assert channel._reason == f"the server is going away{said}"
        (line,) = [(r.levelname, r.message) for r in caplog.records if r.name == "gateway.http2.client"]
        assert line == ("WARNING", f"a connection to 127.0.0.1:{port} ended with 1 calls in hand: {reason}")


async def test_every_end_that_was_not_asked_for_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_nothing(await request_of(reader)))
        if "going" in reason:
            writer.write(f.goaway(1, ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings"))
            await reader.read()
        writer.close()

    caplog.set_level("INFO", "gateway.http2.client")
    going = "the server is going away: ENHANCE_YOUR_CALM too_many_pings"
    for reason in ("the connection was closed by the peer", going):
        async with raw_server(serve) as port, channel_to(port) as channel:
            assert await channel.unary(ECHO, b"", 5) == b""
            async with asyncio.timeout(5):
                while channel._connections:
                    await asyncio.sleep(0)
        (line,) = [(r.levelname, r.message) for r in caplog.records if r.name == "gateway.http2.client"]
        assert line == ("INFO", f"a connection to 127.0.0.1:{port} ended: {reason}")
        caplog.clear()
    async with ours(Behaviour()) as port, channel_to(port) as channel:
        assert await channel.unary(ECHO, b"", 5) == b""
        await channel.close()
    assert not caplog.records


async def test_closing_ends_the_calls() -> None:
    behaviour = Behaviour()
    async with ours(behaviour) as port, channel_to(port) as channel:
        call = asyncio.create_task(channel.unary(WAIT, b"", 5))
        await behaviour.entered.acquire()
        await channel.close()
        assert (await error_of(call)).code is grpc.StatusCode.UNAVAILABLE
        error = await error_of(channel.unary(ECHO, b"", 5))
        assert (error.code, error.unsent) == (grpc.StatusCode.UNAVAILABLE, True)
