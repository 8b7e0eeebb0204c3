"""Busy polling: when the event loop stays awake for an answer, and when it sleeps."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.http2.poll import BusyPoll

CALM = 16  # calls one by one before it begins
FEW, MANY = range(3), range(3, 1_000_000)  # looks of a loop that sleeps while it waits, and of one that doesn't
LONG_S, SOON_S = 30.0, 0.01


class Sleeps(selectors.DefaultSelector):
    """Counts the times that the loop slept, or only looked."""

    slept = looked = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        awake = timeout is not None and timeout <= 0
        self.looked, self.slept = self.looked + awake, self.slept + (not awake)
        return super().select(timeout)


async def asked(poll: BusyPoll, sleeps: Sleeps, *, alone: bool = True, after_s: float = SOON_S) -> int:
    """How often the loop looked while one answer was on its way."""
    before = sleeps.looked
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[None] = loop.create_future()
    loop.call_later(after_s, answer.set_result, None)
    poll.watch(answer, alone=alone)
    await answer
    return sleeps.looked - before


async def calm(poll: BusyPoll, sleeps: Sleeps) -> None:
    """Let as many calls come one by one as it wants to see."""
    for _ in range(CALM):
        await asked(poll, sleeps)


def run(scenario: Callable[[Sleeps], Coroutine[Any, Any, None]]) -> None:
    sleeps = Sleeps()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(sleeps)) as runner:
        runner.run(scenario(sleeps))


def test_it_stays_awake_once_calls_have_come_one_by_one() -> None:
    async def scenario(sleeps: Sleeps) -> None:
        poll = BusyPoll(LONG_S)
        for _ in range(CALM):
            assert await asked(poll, sleeps) in FEW
        slept = sleeps.slept
        assert await asked(poll, sleeps) in MANY
        assert sleeps.slept == slept

    run(scenario)


def test_it_sleeps_among_many_calls() -> None:
    async def scenario(sleeps: Sleeps) -> None:
        poll = BusyPoll(LONG_S)
        await calm(poll, sleeps)
        assert await asked(poll, sleeps, alone=False) in FEW
        for _ in range(CALM):
            assert await asked(poll, sleeps) in FEW
        assert await asked(poll, sleeps) in MANY

    run(scenario)


def test_each_look_out_in_vain_lets_twice_as_many_calls_pass() -> None:
    async def scenario(sleeps: Sleeps) -> None:
        poll = BusyPoll(SOON_S / 4)
        await calm(poll, sleeps)
        watched = [number for number in range(30) if await asked(poll, sleeps) in MANY]
        assert watched == [0, 3, 8, 17]

    run(scenario)


def test_an_answer_in_time_forgives_what_was_in_vain() -> None:
    async def scenario(sleeps: Sleeps) -> None:
        poll = BusyPoll(SOON_S)
        await calm(poll, sleeps)
        assert await asked(poll, sleeps, after_s=2 * SOON_S) in MANY
        for _ in range(2):
            assert await asked(poll, sleeps, after_s=0) in FEW
        for _ in range(3):
            await asked(poll, sleeps, after_s=0)
        assert await asked(poll, sleeps, after_s=2 * SOON_S) in MANY
        for _ in range(2):
            await asked(poll, sleeps, after_s=0)
        assert await asked(poll, sleeps, after_s=2 * SOON_S) in MANY

    run(scenario)


def test_no_time_is_never() -> None:
    async def scenario(sleeps: Sleeps) -> None:
        poll = BusyPoll(0)
        for _ in range(2 * CALM):
            assert await asked(poll, sleeps) in FEW

    run(scenario)


def test_a_call_that_is_given_up_is_watched_no_longer() -> None:
    async def scenario(sleeps: Sleeps) -> None:
        poll = BusyPoll(LONG_S)
        await calm(poll, sleeps)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        poll.watch(answer, alone=True)
        answer.cancel()
        before = sleeps.looked
        await asyncio.sleep(SOON_S)
        assert sleeps.looked - before in FEW

    run(scenario)
