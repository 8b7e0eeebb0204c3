"""Coalescing: while a call to Triton is in flight, what arrives is gathered and sent as one batch when it returns.

No timer is involved: an idle gateway sends at once, and a busy one batches exactly as much as it has to. A lane
serves one model version and one signature (datatypes, sample shapes, priority), so that its requests can be joined.

What it keeps: a request that was cancelled, or whose deadline passed while it waited, is never sent; it neither stalls
nor fails its batch. A call that nobody waits on any more is cancelled, and keeps its place until it has ended: as long
as Triton is at work on it, no other takes it. When a batch is refused, its members are tried once more one by one, so
that one bad request never fails its neighbours; not so while the model fails for every single one, for then that would
only be twice the work.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from contract.tensor import Tensors
from gateway.error import DeadlineExceeded, ExpiredInQueue, UpstreamError, UpstreamFailed, UpstreamRefused

Values = dict[str, NDArray[Any]]

_GRAIN_S = 0.005  # how exactly a deadline is kept
_MAX_SIGNATURES = 1024
_MAX_FAILURES = 5  # of single requests in a row: then a batch that fails isn't tried one by one any more


class Result:
    """What a whole batch came back as. Arrays are `[N, ...]`."""

    __slots__ = ("_interpret", "_meaning", "num_samples", "outputs")

    def __init__(self, outputs: Values, num_samples: int, interpret: Callable[[Values], NDArray[Any] | None]) -> None:
        self.outputs = outputs
        self.num_samples = num_samples
        self._interpret: Callable[[Values], NDArray[Any] | None] | None = interpret
        self._meaning: NDArray[Any] | None = None

    @property
    def meaning(self) -> NDArray[Any] | None:
        """What the outputs mean, worked out once, when somebody asks: for the whole batch it costs what one costs."""
        if self._interpret is not None:
            self._meaning, self._interpret = self._interpret(self.outputs), None
        return self._meaning


class Inference:
    """One request's share of a batch, and how long the call took that carried it."""

    __slots__ = ("_result", "_share", "upstream_s")

    def __init__(self, result: Result, share: slice | None, upstream_s: float) -> None:
        self._result = result
        self._share = share
        self.upstream_s = upstream_s

    @property
    def outputs(self) -> Values:
        """The request's rows of each output."""
        if self._share is None:
            return self._result.outputs
        return {name: array[self._share] for name, array in self._result.outputs.items()}

    @property
    def meaning(self) -> NDArray[Any] | None:
        """The request's rows of what the outputs mean."""
        meaning = self._result.meaning
        return meaning if meaning is None or self._share is None else meaning[self._share]

    @property
    def batch_samples(self) -> int:
        """How many samples the batch had."""
        return self._result.num_samples


@dataclass(eq=False, slots=True)
class Entry:
    """One request waiting for its share of a batch."""

    tensors: Tensors
    observed: Values
    num_samples: int
    deadline: float
    priority: int
    done: asyncio.Future[Inference]
    span: Any = None
    request_id: str = ""
    alone: bool = False
    call: "_Call | None" = None


class Executor:
    """What a lane does with a batch; one a model version.

    `check_shapes` holds names, datatypes and shapes of a request's tensors against the model's, and returns the number
    of samples; what has passed once isn't held against them again. `check_values` looks at the values, each time.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Entry], float], Awaitable[Result]],
        *,
        check_shapes: Callable[[Tensors], int],
        check_values: Callable[[Tensors], None],
        max_batch: int,
        max_calls: int,
        on_result: Callable[[Sequence[Entry], Result], None],
        on_retry: Callable[[int], None],
    ) -> None:
        self.run = run
        self.max_batch = max_batch
        self.max_calls = max_calls
        self.on_result = on_result
        self.on_retry = on_retry
        self._check_shapes = check_shapes
        self._check_values = check_values
        self.failures = 0  # of requests that were alone in their call, in a row
        self._passed: dict[Hashable, tuple[Hashable, int]] = {}
        self._lanes: dict[Hashable, _Lane] = {}
        self._deadlines = _Deadlines(self._expire)

    async def submit(
        self,
        tensors: Tensors,
        observed: Values,
        deadline: float,
        priority: int = 0,
        span: Any = None,
        request_id: str = "",
    ) -> Inference:
        """Wait for this request's share of a batch, until `deadline` (monotonic seconds).

        Raises DeadlineExceeded (ExpiredInQueue if it was never sent), or whatever a check, or `run` for this request,
        raised.
        """
        signature, num_samples = self._pass(tensors, observed, priority)
        self._check_values(tensors)
        lane = self._lanes.get(signature)
        if lane is None:
            lane = self._lanes[signature] = _Lane(self, signature)
        done: asyncio.Future[Inference] = asyncio.get_running_loop().create_future()
        entry = Entry(tensors, observed, num_samples, deadline, priority, done, span, request_id)
        self._deadlines.add(entry)
        lane.push(entry)
        try:
            return await done
        finally:
            self._deadlines.discard(entry)
            if entry.call is not None:
                entry.call.leave()
            else:  # it is in the queue still, which nobody may look at for long
                entry.tensors = entry.observed = {}
            self.release(lane)

    def _pass(self, tensors: Tensors, observed: Values, priority: int) -> tuple[Hashable, int]:
        """What a request must share with others to be joined with them, and its number of samples."""
        items = tensors.items() if len(tensors) == 1 else sorted(tensors.items())  # whatever order they were sent in
        whole = (priority, *observed, *[(name, array.dtype, array.shape) for name, array in items])
        passed = self._passed.get(whole)
        if passed is None:
            num_samples = self._check_shapes(tensors)
            parts = [(name, array.dtype, array.shape[1:]) for name, array in items]
            if len(self._passed) >= _MAX_SIGNATURES:
                self._passed.clear()
            passed = self._passed[whole] = (priority, *observed, *parts), num_samples
        return passed

    def count_failure(self, error: UpstreamError, num_requests: int) -> bool:
        """Count how a call of so many requests failed; whether it is the model that is broken, and not one of them."""
        if isinstance(error, UpstreamRefused):
            return False
        if num_requests == 1:
            self.failures += 1
        return self.failures >= _MAX_FAILURES

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The calls in flight."""
        return [call.task for lane in self._lanes.values() for call in lane.calls]

    def release(self, lane: "_Lane") -> None:
        """Forget a lane that has nothing to do: clients choose dynamic shapes, so lanes must not pile up."""
        if lane.idle and self._lanes.get(lane.signature) is lane:
            del self._lanes[lane.signature]

    def _expire(self, entry: Entry) -> None:
        if entry.done.done():
            return
        kind = DeadlineExceeded if entry.call is not None else ExpiredInQueue
        entry.done.set_exception(kind("the request's time was up before the model answered"))


class _Lane:
    def __init__(self, executor: Executor, signature: Hashable) -> None:
        self.signature = signature
        self._executor = executor
        self._waiting: deque[Entry] = deque()
        self.calls: set[_Call] = set()

    @property
    def idle(self) -> bool:
        return not self._waiting and not self.calls

    def push(self, entry: Entry) -> None:
        self._waiting.append(entry)
        if len(self.calls) < self._executor.max_calls:
            self._send()

    def _send(self) -> None:
        while self._waiting and len(self.calls) < self._executor.max_calls:
            batch = self._take()
            if not batch:
                return
            call = _Call(self, batch)
            self.calls.add(call)
            call.task.add_done_callback(lambda _, call=call: self._returned(call))  # type: ignore[misc]

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
            room -= entry.num_samples
            if entry.alone:
                break
        return batch

    async def serve(self, batch: Sequence[Entry]) -> None:
        """Run a batch and tell everyone in it."""
        sent = time.monotonic()
        try:
            result = await self._executor.run(batch, max(entry.deadline for entry in batch) - sent)
        except (UpstreamRefused, UpstreamFailed) as exc:
            broken = self._executor.count_failure(exc, len(batch))
            if len(batch) == 1 or broken:
                _fail(batch, exc)
            else:
                self._retry_alone(batch)
        except Exception as exc:  # whatever it is, every waiter must hear of it
            _fail(batch, exc)
        else:
            self._executor.failures = 0
            _share(batch, result, time.monotonic() - sent)
            # Queued behind the waiters' own wake-ups: counting delays nobody's answer.
            asyncio.get_running_loop().call_soon(self._executor.on_result, batch, result)

    def _retry_alone(self, batch: Sequence[Entry]) -> None:
        waiting = [entry for entry in batch if not entry.done.done()]
        for entry in reversed(waiting):
            entry.alone, entry.call = True, None
            self._waiting.appendleft(entry)
        self._executor.on_retry(len(waiting))

    def _returned(self, call: "_Call") -> None:
        self.calls.discard(call)
        self._send()
        self._executor.release(self)


class _Call:
    """A batch in flight. It is cancelled when the last of those who wait on it has left."""

    def __init__(self, lane: _Lane, batch: Sequence[Entry]) -> None:
        self._waiting = len(batch)
        for entry in batch:
            entry.call = self
        self.task = asyncio.get_running_loop().create_task(lane.serve(batch))

    def leave(self) -> None:
        self._waiting -= 1
        if self._waiting == 0:
            self.task.cancel()  # does nothing to a call that returned


class _Deadlines:
    """One timer for all entries instead of one each: nearly every entry is answered long before its deadline."""

    def __init__(self, expire: Callable[[Entry], None]) -> None:
        self._expire = expire
        self._due: dict[int, set[Entry]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0

    def add(self, entry: Entry) -> None:
        tick = int(entry.deadline / _GRAIN_S) + 1
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = set()
            if self._timer is None or tick < self._next:
                self._arm(tick)
        due.add(entry)

    def discard(self, entry: Entry) -> None:
        tick = int(entry.deadline / _GRAIN_S) + 1
        due = self._due.get(tick)
        if due is not None:
            due.discard(entry)
            if not due:
                del self._due[tick]

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = tick
        delay_s = tick * _GRAIN_S - time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(max(delay_s, 0), self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = time.monotonic() / _GRAIN_S
        for tick in [tick for tick in self._due if tick <= now]:
            for entry in self._due.pop(tick):
                self._expire(entry)
        if self._due:
            self._arm(min(self._due))


def _share(batch: Sequence[Entry], result: Result, upstream_s: float) -> None:
    if len(batch) == 1:
        if not batch[0].done.done():
            batch[0].done.set_result(Inference(result, None, upstream_s))
        return
    first = 0
    for entry in batch:
        share = slice(first, first := first + entry.num_samples)
        if not entry.done.done():
            entry.done.set_result(Inference(result, share, upstream_s))


def _fail(batch: Sequence[Entry], error: Exception) -> None:
    for entry in batch:
        if not entry.done.done():
            entry.done.set_exception(error)
