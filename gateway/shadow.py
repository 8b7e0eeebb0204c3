"""Shadow traffic: copies of answered requests are put to another target, and its answers compared and thrown away.

The client has its answer already. Nothing here may delay it, fail it, or pile up behind a slow shadow: at most so many
copies are in flight a route, each has a deadline, and what is beyond is dropped and counted.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from contract import ContractError
from contract.tensor import Tensors
from gateway.comparison import Comparison, compare, same_first
from gateway.error import GatewayError
from gateway.route import Choice, RouteTable, ShadowTarget
from gateway.timing import Counters, Histograms

log = logging.getLogger(__name__)

RESULTS = ("agreed", "disagreed", "failed", "dropped")
TOP1 = ("same", "different")
MAX_EXAMPLES = 20

_OFF_LOOP_BYTES = 256 * 1024  # from here on comparing takes longer than a change of threads
_ERROR_BUCKETS = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
_DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a target answered: outputs `[N, ...]` by name, and class scores `[N, labels]` where it classifies."""

    outputs: Tensors
    meaning: NDArray[Any] | None = None


class Shadow:
    """The copies in flight of one gateway process, and how they compared."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._metrics = _Metrics(registry)
        self._pairs: dict[str, _Pair] = {}  # by route
        self._tasks: set[asyncio.Task[None]] = set()

    def prepare(self, table: RouteTable) -> None:
        """Make every series of the routes that come into force, and forget what was kept of those that went."""
        before, self._pairs = self._pairs, {}
        for route in table.document.routes:
            if route.shadow is not None:
                pair = before.get(route.name)
                if pair is None or pair.target != route.shadow.label:
                    pair = _Pair(self._metrics, route.name, route.shadow.label)
                self._pairs[route.name] = pair

    def offer(
        self, choice: Choice, primary: Answer, ask: Callable[[], Awaitable[Answer]], *, request_id: str = ""
    ) -> None:
        """Put a copy of an answered request to the choice's shadow, in a task of its own. Returns at once."""
        spec, pair = choice.shadow, self._pairs.get(choice.route)
        if spec is None or pair is None or pair.target != spec.label:
            return  # not in the sample, or the routes changed since the choice
        if pair.inflight >= spec.max_inflight:
            pair.results["dropped"].inc()
            return
        pair.inflight += 1
        task = asyncio.get_running_loop().create_task(pair.run(spec, primary, ask, request_id))
        self._tasks.add(task)

        def done(task: asyncio.Task[None]) -> None:
            pair.inflight -= 1
            self._tasks.discard(task)

        task.add_done_callback(done)

    def counts(self, route: str) -> dict[str, int] | None:
        """Copies by result, and samples as `top1_same` and `top1_different`, since the start; None without a shadow."""
        pair = self._pairs.get(route)
        if pair is None:
            return None
        series = pair.results | {f"top1_{result}": count for result, count in pair.top1.items()}
        return {result: int(count.value) for result, count in series.items()}

    def counter_examples(self, route: str) -> list[dict[str, Any]]:
        """The last copies of a route that disagreed, newest first, for JSON. They show what clients were answered."""
        pair = self._pairs.get(route)
        return [] if pair is None else list(pair.examples)

    async def close(self) -> None:
        """Cancel what is in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("route", "target")
        self.requests = Counters(
            "gateway_shadow_requests_total",
            "Copies of requests by how the shadow's answer compared with the client's.",
            (*labels, "result"),
        )
        self.top1 = Counters(
            "gateway_shadow_top1_total",
            "Samples by whether the shadow's first class is the one that the client got.",
            (*labels, "result"),
        )
        self.max_error = Histograms(
            "gateway_shadow_max_error",
            "Largest absolute error of the floating-point outputs of a copy.",
            labels,
            _ERROR_BUCKETS,
        )
        self.duration = Histograms(
            "gateway_shadow_duration_seconds", "Time the shadow took to answer.", labels, _DURATION_BUCKETS
        )
        for collector in (self.requests, self.top1, self.max_error, self.duration):
            registry.register(collector)


class _Pair:
    """A route and its shadow's target: their series, the copies in flight and the last that disagreed."""

    def __init__(self, metrics: "_Metrics", route: str, target: str) -> None:
        self.results = {result: metrics.requests.child(route, target, result) for result in RESULTS}
        self.top1 = {result: metrics.top1.child(route, target, result) for result in TOP1}
        self.max_error = metrics.max_error.child(route, target)
        self.duration = metrics.duration.child(route, target)
        self.target = target
        self.inflight = 0
        self.examples: deque[dict[str, Any]] = deque(maxlen=MAX_EXAMPLES)

    async def run(
        self, spec: ShadowTarget, primary: Answer, ask: Callable[[], Awaitable[Answer]], request_id: str
    ) -> None:
        """Ask the shadow once, compare and count; the outermost edge of a copy."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(spec.deadline_ms / 1000):
                shadow = await ask()
            took_s = time.monotonic() - started
            comparison = await _compare(primary, shadow, spec)
        except (GatewayError, ContractError, TimeoutError) as exc:
            self.results["failed"].inc()
            log.debug("the shadow %s failed: %s", self.target, exc)
        except Exception:
            self.results["failed"].inc()
            log.exception("the shadow %s failed", self.target)
        else:
            self.duration.observe(took_s)
            self._count(comparison, same_first(primary.meaning, shadow.meaning), request_id)

    def _count(self, comparison: Comparison, top1: tuple[int, int] | None, request_id: str) -> None:
        if comparison.max_error is not None:
            self.max_error.observe(comparison.max_error)
        if top1 is not None:
            for result, num in zip(TOP1, top1, strict=True):
                self.top1[result].inc(num)
        self.results["disagreed" if comparison.differences else "agreed"].inc()
        if comparison.differences:
            self.examples.appendleft(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "request_id": request_id,
                    "target": self.target,
                    "top1": None if top1 is None else dict(zip(TOP1, top1, strict=True)),
                    "differences": comparison.differences,
                }
            )


async def _compare(primary: Answer, shadow: Answer, spec: ShadowTarget) -> Comparison:
    work = partial(compare, primary.outputs, shadow.outputs, rtol=spec.rtol, atol=spec.atol)
    if sum(array.nbytes for array in primary.outputs.values()) < _OFF_LOOP_BYTES:
        return work()
    return await asyncio.to_thread(work)
