import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.coalesce import Entry, Executor, Inference, Result
from gateway.error import DeadlineExceeded, ExpiredInQueue, UpstreamFailed, UpstreamRefused
from gateway.upstream import Batch

POISON = -1.0


class Doubler:
    """Doubles `x`; refuses a batch that holds POISON. Calls wait at the gate."""

    def __init__(self, **options: Any) -> None:
        self.gate = asyncio.Event()
        self.batches: list[list[float]] = []
        self.cancelled = self.retried = self.counted = 0
        defaults: dict[str, Any] = {"max_batch": 4, "max_calls": 1}
        self.executor = Executor(
            self.run,
            on_result=self.on_result,
            on_retry=self.on_retry,
            check_shapes=lambda tensors: len(tensors["x"]),
            check_values=lambda _: None,
            **(defaults | options),
        )

    async def run(self, batch: Sequence[Entry], timeout_s: float) -> Result:
        inputs = Batch("m", "1", [entry.tensors for entry in batch]).tensors()
        self.batches.append(inputs["x"][:, 0].tolist())
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if (inputs["x"] == POISON).any():
            raise UpstreamRefused("poison")
        return Result({"y": inputs["x"] * 2}, len(inputs["x"]), lambda outputs: outputs["y"][:, 0] / 2)

    def on_result(self, batch: Sequence[Entry], result: Result) -> None:
        self.counted += result.num_samples

    def on_retry(self, num: int) -> None:
        self.retried += num

    def ask(self, *values: float, width: int = 1, timeout_s: float = 30) -> "asyncio.Task[Inference]":
        x = np.repeat(np.array(values, np.float32)[:, None], width, axis=1)
        deadline = time.monotonic() + timeout_s
        return asyncio.ensure_future(self.executor.submit({"x": x}, {}, deadline))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_idle_lane_sends_at_once_and_a_busy_one_gathers() -> None:
    doubler = Doubler()
    asks = [doubler.ask(float(i)) for i in range(6)]
    await settle()
    assert doubler.batches == [[0.0]]
    doubler.gate.set()
    answers = await asyncio.gather(*asks)
    assert doubler.batches == [[0.0], [1.0, 2.0, 3.0, 4.0], [5.0]]
    assert [float(a.outputs["y"][0, 0]) for a in answers] == [0, 2, 4, 6, 8, 10]
    await settle()
    assert doubler.counted == 6


async def test_requests_of_several_samples_stay_whole_and_shapes_apart() -> None:
    doubler = Doubler()
    asks = [doubler.ask(0.0), doubler.ask(1.0, 2.0, 3.0), doubler.ask(4.0, 5.0), doubler.ask(6.0, width=2)]
    await settle()
    doubler.gate.set()
    answers = await asyncio.gather(*asks)
    assert doubler.batches == [[0.0], [6.0], [1.0, 2.0, 3.0], [4.0, 5.0]]
    assert answers[1].outputs["y"].tolist() == [[2.0], [4.0], [6.0]]
    assert answers[3].outputs["y"].tolist() == [[12.0, 12.0]]


async def test_a_call_that_nobody_waits_on_keeps_its_place_until_it_ends() -> None:
    doubler = Doubler()
    work, doubler.executor.run = doubler.executor.run, stubborn(doubler)
    left = doubler.ask(0.0)
    late = doubler.ask(1.0, width=2, timeout_s=0.02)  # of another lane
    waiting = doubler.ask(2.0), doubler.ask(3.0, width=2)
    await settle()
    left.cancel()
    with pytest.raises(DeadlineExceeded):
        await late
    await settle()
    assert left.cancelled()
    assert doubler.batches == [[0.0], [1.0]]
    doubler.executor.run = work
    doubler.gate.set()
    assert [float(one.outputs["y"][0, 0]) for one in await asyncio.gather(*waiting)] == [4, 6]


def stubborn(doubler: Doubler) -> Any:
    """A model that is at work on a batch whoever waits for it."""

    async def run(batch: Sequence[Entry], timeout_s: float) -> Result:
        doubler.batches.append(batch[0].tensors["x"][:, 0].tolist())
        try:
            await doubler.gate.wait()
        finally:
            await doubler.gate.wait()
        raise UpstreamFailed("nobody waits")

    return run


async def test_one_bad_request_fails_alone() -> None:
    doubler = Doubler()
    asks = [doubler.ask(v) for v in (0.0, 1.0, POISON, 2.0)]
    await settle()
    doubler.gate.set()
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert isinstance(answers[2], UpstreamRefused)
    assert [float(a.outputs["y"][0, 0]) for i, a in enumerate(answers) if i != 2] == [0, 2, 4]  # type: ignore[union-attr]
    assert doubler.retried == 3


async def test_a_cancelled_request_neither_stalls_nor_joins_a_batch() -> None:
    doubler = Doubler()
    asks = [doubler.ask(float(i)) for i in range(4)]
    await settle()
    asks[2].cancel()
    await settle()
    doubler.gate.set()
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert doubler.batches == [[0.0], [1.0, 3.0]]
    assert isinstance(answers[2], asyncio.CancelledError)


async def test_a_call_is_cancelled_when_nobody_waits_on_it() -> None:
    doubler = Doubler(max_calls=2)
    first, second, third = doubler.ask(0.0), doubler.ask(1.0), doubler.ask(2.0)
    await settle()
    first.cancel()
    await settle()
    assert doubler.cancelled == 1
    doubler.gate.set()
    await asyncio.gather(second, third)
    assert doubler.batches == [[0.0], [1.0], [2.0]]


async def test_a_deadline_passes_in_the_queue_without_a_call() -> None:
    doubler = Doubler()
    first, late = doubler.ask(0.0), doubler.ask(1.0, timeout_s=0.01)
    with pytest.raises(ExpiredInQueue):
        await late
    doubler.gate.set()
    await first
    await settle()
    assert doubler.batches == [[0.0]]


async def test_a_deadline_that_passes_in_a_call_was_not_one_of_the_queue() -> None:
    doubler = Doubler()
    with pytest.raises(DeadlineExceeded) as error:
        await doubler.ask(0.0, timeout_s=0.01)
    assert type(error.value) is DeadlineExceeded


async def test_who_left_the_queue_keeps_no_memory_in_it() -> None:
    doubler = Doubler()
    first, cancelled, late = doubler.ask(0.0), doubler.ask(1.0), doubler.ask(2.0, timeout_s=0.01)
    await settle()
    cancelled.cancel()
    await asyncio.wait([cancelled, late])
    (lane,) = doubler.executor._lanes.values()
    assert [entry.tensors for entry in lane._waiting] == [{}, {}]
    doubler.gate.set()
    await first


async def test_lanes_do_not_pile_up() -> None:
    doubler = Doubler()
    doubler.gate.set()
    for width in range(1, 50):
        await doubler.ask(1.0, width=width)
    await settle()
    assert doubler.executor._lanes == {}


async def test_an_error_reaches_every_waiter() -> None:
    doubler = Doubler()

    async def broken(batch: Sequence[Entry], timeout_s: float) -> Result:
        raise UpstreamFailed("broken") if len(batch) == 1 else RuntimeError("worse")

    doubler.executor.run = broken
    answers = await asyncio.gather(*(doubler.ask(float(i)) for i in range(5)), return_exceptions=True)
    assert {str(a) for a in answers} == {"broken", "worse"}


async def test_a_model_that_is_broken_is_not_asked_one_by_one_for_ever() -> None:
    doubler = Doubler()
    doubler.gate.set()
    run, asked = doubler.run, 0

    async def broken(batch: Sequence[Entry], timeout_s: float) -> Result:
        nonlocal asked
        asked += 1
        raise UpstreamFailed("broken")

    doubler.executor.run = broken
    for _ in range(50):
        answers = await asyncio.gather(*(doubler.ask(float(i)) for i in range(4)), return_exceptions=True)
        assert {str(answer) for answer in answers} == {"broken"}
    assert asked <= 1.1 * 50 * 4
    doubler.executor.run = run
    await doubler.ask(0.0)  # it is well again: one bad request fails alone, as ever
    asks = [doubler.ask(value) for value in (0.0, 1.0, POISON, 2.0)]
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert [isinstance(answer, Exception) for answer in answers] == [False, False, True, False]


steps = st.lists(
    st.tuples(
        st.lists(st.sampled_from([0.0, 1.0, 2.0, POISON]), min_size=1, max_size=4),
        st.integers(1, 2),
        st.sampled_from(["wait", "cancel", "late"]),
    ),
    max_size=20,
)


@given(steps, st.integers(1, 3))
def test_whatever_happens_everyone_gets_their_own_answer(plan: list[tuple[list[float], int, str]], calls: int) -> None:
    async def scenario() -> None:
        doubler = Doubler(max_calls=calls)
        asks = []
        for values, width, fate in plan:
            asks.append(doubler.ask(*values, width=width, timeout_s=0.0005 if fate == "late" else 30))
            await asyncio.sleep(0)
            if fate == "cancel":
                asks[-1].cancel()
        doubler.gate.set()
        answers = await asyncio.gather(*asks, return_exceptions=True)
        for (values, width, fate), answer in zip(plan, answers, strict=True):
            if isinstance(answer, Inference):
                assert answer.outputs["y"].tolist() == [[2 * v] * width for v in values]
            elif fate == "cancel":
                assert isinstance(answer, asyncio.CancelledError)
            elif fate == "late":
                assert isinstance(answer, DeadlineExceeded | UpstreamRefused)
            else:
                assert POISON in values
                assert isinstance(answer, UpstreamRefused)
        for batch in doubler.batches:
            assert len(batch) <= 4
        await settle()
        assert doubler.executor._lanes == {}

    asyncio.run(scenario())
