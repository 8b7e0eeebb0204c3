"""Calls of the client to a real grpc.aio server and to our own."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
import uvloop

from gateway.http2 import client as client_module
from gateway.http2.client import CallError
from tests.gateway.http2_service import (
    ECHO,
    FAIL,
    LARGE,
    TIME,
    WAIT,
    Behaviour,
    channel_to,
    error_of,
    ours,
    theirs,
)


@pytest.mark.parametrize("serve", [theirs, ours])
async def test_messages_metadata_and_errors(serve: Any) -> None:
    async with serve(Behaviour()) as port, channel_to(port) as channel:
        for message in (b"", b"a", b"b" * 16_379, b"b" * 16_384, b"c" * 70_000, LARGE):
            assert await channel.unary(ECHO, message, 20) == message
        tails: list[list[bytes | memoryview]] = [[b"d"], [memoryview(LARGE), b"e"], [b"f" * 16_384] * 9]
        for tail in tails:
            for message in (b"", b"c" * 70_000):
                assert await channel.unary(ECHO, message, 20, tail=tail) == b"".join((message, *tail))
        remaining, tag, raw = (await channel.unary(TIME, b"", 7, [("x-tag", "a"), ("x-raw-bin", "é")])).split()
        assert 5 < float(remaining) <= 7.1
        assert (tag, raw) == (b"a", repr("é".encode()).encode())
        error = await error_of(channel.unary(FAIL, b"", 5))
        assert (error.code, error.details) == (grpc.StatusCode.FAILED_PRECONDITION, "größer als 100 %\n")
        assert not error.unsent
        error = await error_of(channel.unary("/test.Service/None", b"", 5))
        assert error.code is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(ValueError, match="lower-case"):
            await channel.unary(ECHO, b"", 5, [("X-Tag", "a")])


@pytest.mark.parametrize("serve", [theirs, ours])
async def test_many_calls_at_once(serve: Any) -> None:
    async with serve(Behaviour()) as port, channel_to(port) as channel:
        messages = [b"%d" % i * 1000 for i in range(500)]
        assert await asyncio.gather(*(channel.unary(ECHO, message, 20) for message in messages)) == messages
        large = [bytes([i]) * 3_000_000 for i in range(6)]
        assert await asyncio.gather(*(channel.unary(ECHO, message, 20) for message in large)) == large


def test_on_uvloop() -> None:
    async def scenario() -> None:
        async with ours(Behaviour()) as port, channel_to(port) as channel:
            assert await channel.unary(ECHO, LARGE, 20) == LARGE
            messages = [b"%d" % i * 5000 for i in range(300)]
            assert await asyncio.gather(*(channel.unary(ECHO, message, 20) for message in messages)) == messages

    uvloop.run(scenario())


@pytest.mark.parametrize("serve", [theirs, ours])
async def test_deadline_and_cancellation_reach_the_handler(serve: Any) -> None:
    behaviour = Behaviour()
    async with serve(behaviour) as port, channel_to(port) as channel:
        while behaviour.cancelled.locked():  # on a busy machine a call may end before its handler begins
            error = await error_of(channel.unary(WAIT, b"", 0.05))
            assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
            await asyncio.sleep(0)
        while not behaviour.cancelled.locked():
            await behaviour.cancelled.acquire()
            await behaviour.entered.acquire()
        task = asyncio.create_task(channel.unary(WAIT, b"", 20))
        await behaviour.entered.acquire()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await behaviour.cancelled.acquire()
        assert await channel.unary(ECHO, b"on", 5) == b"on"


@pytest.mark.parametrize("serve", [theirs, ours])
async def test_a_call_that_is_given_up_may_end_by_itself(serve: Any) -> None:
    behaviour = Behaviour()
    async with serve(behaviour) as port, channel_to(port) as channel:
        left = asyncio.create_task(channel.unary(WAIT, b"", 20, grace_s=20))
        late = asyncio.create_task(channel.unary(WAIT, b"", 0.05, grace_s=20))
        for _ in range(2):
            await behaviour.entered.acquire()
        left.cancel()
        await asyncio.sleep(0.1)
        assert await channel.unary(ECHO, b"on", 20) == b"on"
        assert behaviour.cancelled.locked()  # the server heard nothing of it
        assert not left.done()
        assert not late.done()
        behaviour.gate.set()
        await asyncio.wait([left], timeout=10)
        assert left.cancelled()
        assert (await error_of(late)).code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("serve", [theirs, ours])
async def test_a_call_that_is_given_up_and_does_not_end_is_reset(serve: Any) -> None:
    behaviour = Behaviour()
    async with serve(behaviour) as port, channel_to(port) as channel:
        left = asyncio.create_task(channel.unary(WAIT, b"", 20, grace_s=0.05))
        await behaviour.entered.acquire()
        left.cancel()
        async with asyncio.timeout(10):
            await behaviour.cancelled.acquire()
            await asyncio.wait([left])
        assert left.cancelled()
        late = asyncio.create_task(channel.unary(WAIT, b"", 0.5, grace_s=0.05))
        await behaviour.entered.acquire()
        async with asyncio.timeout(10):
            await behaviour.cancelled.acquire()
        assert (await error_of(late)).code is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("serve", [theirs, ours])
async def test_calls_wait_for_their_turn(serve: Any) -> None:
    behaviour = Behaviour()
    limit: Any = {"max_streams": 2} if serve is ours else {}
    options = () if serve is ours else (("grpc.max_concurrent_streams", 2),)
    async with serve(behaviour, *options, **limit) as port, channel_to(port) as channel:
        await channel.unary(ECHO, b"", 5)
        held = [asyncio.create_task(channel.unary(WAIT, b"%d" % i, 20)) for i in range(2)]
        for _ in held:
            await behaviour.entered.acquire()
        waiting = [asyncio.create_task(channel.unary(ECHO, b"%d" % i, 20)) for i in range(50)]
        error = await error_of(channel.unary(ECHO, b"", 0.05))
        assert (error.code, error.unsent) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)
        waiting[7].cancel()
        behaviour.gate.set()
        assert await asyncio.gather(*held) == [b"0", b"1"]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        # A server of the library counts a call for a moment longer than it lasts, and may refuse the next.
        refused = [answer for answer in answers if isinstance(answer, CallError)]
        assert all(serve is theirs and answer.unsent for answer in refused)
        assert sum(isinstance(answer, bytes) for answer in answers) == 49 - len(refused)


async def test_no_more_calls_wait_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_WAITING", 1)
    behaviour = Behaviour()
    async with ours(behaviour, max_streams=1) as port, channel_to(port) as channel:
        calls = [asyncio.create_task(channel.unary(WAIT, b"", 5)) for _ in range(3)]
        error = await error_of(calls[2])
        assert (error.code, error.unsent) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
        behaviour.gate.set()
        assert await asyncio.gather(*calls[:2]) == [b"", b""]
