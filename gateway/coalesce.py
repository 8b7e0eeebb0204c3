"""Coalescing: while a call to Triton is in flight, what arrives is gathered and sent as one batch when it returns.

No timer is involved: an idle gateway sends at once, and a busy one batches exactly as much as it has to. A lane
serves one model version and one signature (datatypes and sample shapes), so that its requests can be joined.

What it keeps: a request that was cancelled, or whose deadline passed while it waited, is never sent; it neither stalls
nor fails its batch. A call is cancelled when nobody waits on it any more. When a batch is refused, its
members are tried once more one by one, so that one bad request never fails its neighbours.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from contract.tensor import Tensors
from gateway.error import DeadlineExceeded, UpstreamFailed, UpstreamRefused

Values = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Result:
    """What a whole batch came back as. Arrays are `[N, ...]`."""

    inputs: Values
    outputs: Values
    meaning: NDArray[Any] | None


@dataclass(frozen=True, slots=True)
class Inference:
    """One request's share of a batch, and how long the call to Triton took that carried it."""

    outputs: Values
    meaning: NDArray[Any] | None
    upstream_s: float


@dataclass(eq=False, slots=True)
class Entry:
    """One request waiting for its share of a batch."""

    tensors: Tensors
    observed: Values
    num_samples: int
    deadline: float
    done: asyncio.Future[Inference]
    alone: bool = False
    sent: bool = False


class Executor:
    """What a lane does with a batch; one a model version."""

    def __init__(
        self,
        run: Callable[[Sequence[Entry], float], Awaitable[Result]],
        *,
        max_batch: int,
        max_calls: int,
        on_result: Callable[[Sequence[Entry], Result], None],
        on_retry: Callable[[int], None],
        on_expired: Callable[[], None],
    ) -> None:
        self.run = run
        self.max_batch = max_batch
        self.max_calls = max_calls
        self.on_result = on_result
        self.on_retry = on_retry
        self._on_expired = on_expired
        self._lanes: dict[Any, _Lane] = {}

    async def submit(self, tensors: Tensors, observed: Values, num_samples: int, deadline: float) -> Inference:
        """Wait for this request's share of a batch, until `deadline` (monotonic seconds).

        Raises DeadlineExceeded, or whatever `run` raised for this request.
        """
        signature = (*((name, array.dtype, array.shape[1:]) for name, array in tensors.items()), *observed)
        lane = self._lanes.get(signature)
        if lane is None:
            lane = self._lanes[signature] = _Lane(self, signature)
        entry = Entry(tensors, observed, num_samples, deadline, asyncio.get_running_loop().create_future())
        lane.push(entry)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await entry.done
        except TimeoutError:
            if not entry.sent:
                self._on_expired()
            raise DeadlineExceeded("the request's time was up before the model answered") from None
        finally:
            self.release(lane)

    def release(self, lane: "_Lane") -> None:
        """Forget a lane that has nothing to do: clients choose dynamic shapes, so lanes must not pile up."""
        if lane.idle and self._lanes.get(lane.signature) is lane:
            del self._lanes[lane.signature]


class _Lane:
    def __init__(self, executor: Executor, signature: Any) -> None:
        self.signature = signature
        self._executor = executor
        self._waiting: deque[Entry] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._calls

    def push(self, entry: Entry) -> None:
        self._waiting.append(entry)
        self._send()

    def _send(self) -> None:
        while self._waiting and len(self._calls) < self._executor.max_calls:
            batch = self._take()
            if not batch:
                return
            call = asyncio.get_running_loop().create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._returned)
            self._cancel_with_last_waiter(call, batch)

    def _take(self) -> list[Entry]:
        """Take the next batch off the queue, in order of arrival, leaving out who no longer waits."""
        batch: list[Entry] = []
        room = self._executor.max_batch
        now = time.monotonic()
        while self._waiting:
            entry = self._waiting[0]
            if entry.done.done() or entry.deadline <= now:  # its own time-out has told it, or is about to
                self._waiting.popleft()
                continue
            if batch and (entry.num_samples > room or entry.alone):
                break
            batch.append(self._waiting.popleft())
            entry.sent = True
            room -= entry.num_samples
            if entry.alone:
                break
        return batch

    async def _call(self, batch: Sequence[Entry]) -> None:
        sent = time.monotonic()
        try:
            result = await self._executor.run(batch, max(entry.deadline for entry in batch) - sent)
        except (UpstreamRefused, UpstreamFailed) as exc:
            if len(batch) == 1:
                _fail(batch, exc)
            else:
                self._retry_alone(batch)
        except Exception as exc:  # whatever it is, every waiter must hear of it
            _fail(batch, exc)
        else:
            _share(batch, result, time.monotonic() - sent)
            # Queued behind the waiters' own wake-ups: counting delays nobody's answer.
            asyncio.get_running_loop().call_soon(self._executor.on_result, batch, result)

    def _retry_alone(self, batch: Sequence[Entry]) -> None:
        waiting = [entry for entry in batch if not entry.done.done()]
        for entry in reversed(waiting):
            entry.alone = True
            self._waiting.appendleft(entry)
        self._executor.on_retry(len(waiting))

    def _returned(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._send()
        self._executor.release(self)

    @staticmethod
    def _cancel_with_last_waiter(call: asyncio.Task[None], batch: Sequence[Entry]) -> None:
        waiting = len(batch)

        def left(_: asyncio.Future[Inference]) -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0:
                call.cancel()  # does nothing to a call that returned

        for entry in batch:
            entry.done.add_done_callback(left)


def _share(batch: Sequence[Entry], result: Result, upstream_s: float) -> None:
    first = 0
    for entry in batch:
        share = slice(first, first := first + entry.num_samples)
        if not entry.done.done():
            outputs = {name: array[share] for name, array in result.outputs.items()}
            meaning = None if result.meaning is None else result.meaning[share]
            entry.done.set_result(Inference(outputs, meaning, upstream_s))


def _fail(batch: Sequence[Entry], error: Exception) -> None:
    for entry in batch:
        if not entry.done.done():
            entry.done.set_exception(error)
