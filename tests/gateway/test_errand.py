import asyncio
import time

import pytest

from gateway.errand import Errands
from gateway.error import DeadlineExceeded, Overloaded, UpstreamFailed


class Server:
    """Answers once its gate is open, whether anybody waits or not."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun = self.ended = 0

    async def answer(self) -> str:
        self.begun += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            await self.gate.wait()
            raise
        finally:
            self.ended += 1
        return "answer"


def soon(seconds: float = 10) -> float:
    return time.monotonic() + seconds


async def test_what_a_call_ends_with_is_passed_on() -> None:
    async def fail() -> None:
        raise UpstreamFailed("broken")

    server, errands = Server(), Errands(1)
    server.gate.set()
    assert await errands.run(server.answer(), soon()) == "answer"
    with pytest.raises(UpstreamFailed, match="broken"):
        await errands.run(fail(), soon())
    assert await errands.run(server.answer(), soon()) == "answer"  # both have made room


async def test_a_call_whose_time_is_up_is_not_made() -> None:
    server, errands = Server(), Errands(1)
    with pytest.raises(DeadlineExceeded, match="before the model was asked"):
        await errands.run(server.answer(), soon(-1))
    assert (server.begun, len(errands.tasks)) == (0, 0)


async def test_nobody_waits_for_longer_than_his_deadline_and_the_call_counts_until_it_ends() -> None:
    server, errands = Server(), Errands(2)
    with pytest.raises(DeadlineExceeded, match="time was up"):
        await errands.run(server.answer(), soon(0.02))
    left = asyncio.create_task(errands.run(server.answer(), soon()))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left], timeout=5)
    assert left.cancelled()
    with pytest.raises(Overloaded, match="at work on 2 calls"):
        await errands.run(server.answer(), soon())
    assert (server.begun, server.ended) == (2, 0)
    server.gate.set()
    await asyncio.wait(errands.tasks, timeout=5)
    assert server.ended == 2
    assert await errands.run(server.answer(), soon()) == "answer"
