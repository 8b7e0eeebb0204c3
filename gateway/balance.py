"""Many inference servers behind the seam of one: who is there, who is well, and who is asked next.

Two things are known of an endpoint. *Whether it is there* and which versions it has ready: its index says so, asked by
the catalog's polls and at once after a call that couldn't reach it. *Whether a version of a model works there*: its
calls say so, by a breaker for each endpoint and version, so that a broken model takes no server away from the others.

Who sends a model what makes it fail must not shut it for everyone else. So a breaker that opened for errors that were
answers only prefers other endpoints: where there are none, calls still go out. One that opened for silence (time-outs,
lost connections) lets nothing out but one probe at a time.

A call is sent to the endpoint with the fewest calls pending. If it couldn't be reached, or was lost, it is sent once
more, to another endpoint if there is one, as far as the retry budget goes. Calls of a sequence stay with one endpoint,
chosen by rendezvous hashing so that every gateway chooses the same, and are sent again only if they surely never
arrived.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from hashlib import blake2b
from types import TracebackType
from typing import Any, TypeVar

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.budget import Breaker, Ejection, RetryBudget
from gateway.endpoint import Check, Endpoint, Key
from gateway.error import DeadlineExceeded, UpstreamError, UpstreamFailed, UpstreamUnavailable
from gateway.resolve import Resolve, Resolver, resolve_address
from gateway.upstream import Batch, IndexEntry, Upstream

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_CHECK_TIMEOUT_S = 2.0
_RESOLVE_AGAIN_S = 1.0  # after a failure, at most so often


class Balancer:
    """An `Upstream` over all the servers behind some addresses. Times are monotonic seconds.

    `connect` makes an upstream of an `ip:port`. A time-out counts against a model only if the call was given
    `patience_s`: how little time a client gives must not shut a model for others.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        connect: Callable[[str], Upstream],
        *,
        resolve: Resolve = resolve_address,
        resolve_interval_s: float = 5.0,
        ejection: Ejection | None = None,
        budget: RetryBudget | None = None,
        patience_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        metrics: "BalanceMetrics | None" = None,
    ) -> None:
        self.endpoints: tuple[Endpoint, ...] = ()
        self.budget = budget or RetryBudget()
        self.patience_s = patience_s
        self.clock = clock
        self._resolver = Resolver(addresses, resolve, clock=clock, on_change=self._change)
        self._resolve_interval_s = resolve_interval_s
        self._connect = connect
        self._ejection = ejection or Ejection()
        self._jitter = jitter
        self._turn = 0
        self._leaving: dict[str, Endpoint] = {}
        self._closing: set[asyncio.Task[None]] = set()
        if metrics is not None:
            metrics.watch(self)

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        """What the servers have, all of them together: a version is ready if one of those that are up has it ready.

        UpstreamUnavailable if none is up; UpstreamFailed if those that answer can't read their repositories.
        """
        self._resolver.refresh(self._resolve_interval_s)
        if not self.endpoints:
            await self._resolver.wait(timeout_s)
        checks = [self.check(endpoint, timeout_s) for endpoint in self.endpoints]
        if not checks:
            raise UpstreamUnavailable("the inference server's name can't be resolved", unsent=True)
        await asyncio.wait(checks)  # each has its time-out
        failures = [check.result() for check in checks]
        if None in failures:
            return _union(self.endpoints)
        for failure in failures:
            if isinstance(failure, UpstreamFailed):
                raise failure
        if any(endpoint.up for endpoint in self.endpoints):  # it was silent once, which is forgiven
            return _union(self.endpoints)
        raise UpstreamUnavailable(str(failures[0])) from failures[0]

    async def infer(self, batch: Batch, timeout_s: float) -> dict[str, NDArray[Any]]:
        """Run a batch and return all of the model's outputs."""
        sequence = batch.parameters.get("sequence_id") if batch.parameters else None
        return await self._call(
            (batch.name, batch.version), timeout_s, lambda up, left_s: up.infer(batch, left_s), sequence
        )

    async def stream(self, requests: AsyncIterator[Any], timeout_s: float) -> AsyncIterator[Any]:
        """Pass a stream on to one server: one that has the first request's model ready. It isn't sent twice."""
        try:
            async with asyncio.timeout(timeout_s):
                first = await anext(requests, None)
        except TimeoutError:
            raise DeadlineExceeded("the stream's time was up before its first request came") from None
        if first is None:
            return
        key = (first.model_name, first.model_version)
        with _Attempt(self, self._choose(key, _sequence_of(first)), key, timeout_s) as attempt:
            responses = attempt.endpoint.upstream.stream(_chain(first, requests), timeout_s)
            async with aclosing(responses):  # type: ignore[type-var]
                async for response in responses:
                    if not response.error_message:
                        attempt.succeed()
                    yield response

    async def model_metadata(self, name: str, version: str, timeout_s: float) -> Any:
        """Return a server's `ModelMetadataResponse`."""
        return await self._call((name, version), timeout_s, lambda up, left_s: up.model_metadata(name, version, left_s))

    async def model_config(self, name: str, version: str, timeout_s: float) -> Any:
        """Return a server's `ModelConfigResponse`."""
        return await self._call((name, version), timeout_s, lambda up, left_s: up.model_config(name, version, left_s))

    async def model_statistics(self, name: str, version: str, timeout_s: float) -> Any:
        """Return a server's `ModelStatisticsResponse`: what it did itself, of all models when no name is given."""
        return await self._call(
            (name, version), timeout_s, lambda up, left_s: up.model_statistics(name, version, left_s)
        )

    async def close(self) -> None:
        """Let go of all connections."""
        await self._resolver.close()
        endpoints = (*self.endpoints, *self._leaving.values())
        self.endpoints, self._leaving = (), {}
        for endpoint in endpoints:
            endpoint.leaving = True
        checks = [endpoint.check for endpoint in endpoints if endpoint.check is not None]
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)
        await asyncio.gather(*(endpoint.upstream.close() for endpoint in endpoints), *self._closing)

    async def _call(
        self, key: Key, timeout_s: float, send: Callable[[Upstream, float], Awaitable[Answer]], sequence: Any = None
    ) -> Answer:
        deadline = self.clock() + timeout_s
        self.budget.earn()
        endpoint = self._choose(key, sequence)
        try:
            with _Attempt(self, endpoint, key, timeout_s):
                return await send(endpoint.upstream, timeout_s)
        except UpstreamUnavailable as exc:
            left_s = deadline - self.clock()
            if left_s <= 0 or (sequence and not exc.unsent):
                raise
            # A lost connection says little of the server: where there is no other, it is asked again over a new one.
            candidates = self._candidates(key, but=endpoint) or (self._candidates(key) if exc.lost else [])
            if not candidates or not self.budget.spend():
                raise
            endpoint = self._best(candidates, key, sequence)
        with _Attempt(self, endpoint, key, left_s):
            return await send(endpoint.upstream, left_s)

    def _choose(self, key: Key, sequence: Any) -> Endpoint:
        candidates = self._candidates(key)
        if not candidates:
            raise UpstreamUnavailable(self._reason(key), unsent=True)
        return self._best(candidates, key, sequence)

    def _candidates(self, key: Key, but: Endpoint | None = None) -> list[Endpoint]:
        now = self.clock()
        candidates = [e for e in self.endpoints if e is not but and e.takes(key, now)]
        return candidates or [e for e in self.endpoints if e is not but and e.answers(key)]

    def _best(self, candidates: list[Endpoint], key: Key, sequence: Any) -> Endpoint:
        if len(candidates) == 1:
            return candidates[0]
        if sequence:
            return max(candidates, key=lambda e: _rendezvous(e.address, key[0], sequence))
        best = min(candidates, key=lambda e: (e.pending, e.turn))
        self._turn = best.turn = self._turn + 1
        return best

    def _reason(self, key: Key) -> str:
        if not any(endpoint.up for endpoint in self.endpoints):
            return "the inference server is not available"
        if any(endpoint.up and key in endpoint.ready for endpoint in self.endpoints):
            return f"model {key[0]!r} did not answer again and again; it is tried again in a moment"
        return f"model {key[0]!r} is not ready"

    def check(self, endpoint: Endpoint, timeout_s: float = _CHECK_TIMEOUT_S) -> Check:
        """Ask an endpoint what it has ready, unless it is being asked already."""
        if endpoint.check is None:
            endpoint.check = asyncio.get_running_loop().create_task(endpoint.ask(timeout_s))
            endpoint.check.add_done_callback(lambda _: self._checked(endpoint))
        return endpoint.check

    def _checked(self, endpoint: Endpoint) -> None:
        endpoint.check = None
        if not endpoint.up and not endpoint.leaving:
            self._resolver.refresh(_RESOLVE_AGAIN_S)
        self.release(endpoint)

    def _change(self, addresses: Sequence[str]) -> None:
        """Take in the endpoints at new addresses, and let those go whose address is gone, once their calls return."""
        known = {endpoint.address: endpoint for endpoint in self.endpoints}
        self.endpoints = tuple(known.pop(address) if address in known else self._join(address) for address in addresses)
        for endpoint in known.values():
            log.info("inference server %s is gone from its name", endpoint.address)
            endpoint.leaving = True
            self._leaving[endpoint.address] = endpoint
            self.release(endpoint)

    def _join(self, address: str) -> Endpoint:
        endpoint = self._leaving.pop(address, None)
        if endpoint is None:
            return Endpoint(address, self._connect(address), self._ejection, self._jitter)
        endpoint.leaving = False
        return endpoint

    def release(self, endpoint: Endpoint) -> None:
        """Close an endpoint that is leaving and has nothing in hand any more."""
        if endpoint.leaving and not endpoint.pending and endpoint.check is None:
            if self._leaving.pop(endpoint.address, None) is None:
                return
            closing = asyncio.get_running_loop().create_task(endpoint.upstream.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


class _Attempt:
    """One call at one endpoint: pending while it lasts, and judged by how it ends.

    One that was cancelled isn't judged, unless by then its time was up as well.
    """

    __slots__ = ("_balancer", "_key", "_probes", "_sent", "_succeeded", "_timeout_s", "endpoint")

    def __init__(self, balancer: Balancer, endpoint: Endpoint, key: Key, timeout_s: float) -> None:
        self.endpoint = endpoint
        self._balancer = balancer
        self._key = key
        self._timeout_s = timeout_s
        self._sent = balancer.clock()
        self._probes: Breaker | None = None
        self._succeeded = False

    def __enter__(self) -> "_Attempt":
        self.endpoint.pending += 1
        if self.endpoint.breakers:
            breaker = self.endpoint.breakers.get(self._key)
            if breaker is not None and breaker.probe(self._sent):
                self._probes = breaker
        return self

    def succeed(self) -> None:
        """The model works there."""
        self._succeeded = True
        self.endpoint.succeeded(self._key, self._sent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.endpoint.pending -= 1
        if self._probes is not None:
            self._probes.probing = False
        if error is None:
            self.succeed()
        elif isinstance(error, UpstreamUnavailable | UpstreamFailed | DeadlineExceeded):
            self._fail(error)
        elif isinstance(error, asyncio.CancelledError) and self._balancer.clock() > self._sent + self._timeout_s:
            self._fail(DeadlineExceeded("the inference server did not answer in time"))
        if self.endpoint.leaving:
            self._balancer.release(self.endpoint)

    def _fail(self, error: UpstreamError | DeadlineExceeded) -> None:
        impatient = self._succeeded or self._timeout_s < self._balancer.patience_s
        if isinstance(error, DeadlineExceeded) and impatient:
            return
        self.endpoint.failed(self._key, self._sent, self._balancer.clock(), error)
        if isinstance(error, UpstreamUnavailable) and not self.endpoint.leaving:
            self._balancer.check(self.endpoint)


class BalanceMetrics(Collector):
    """A balancer's metrics, read when they are scraped: an endpoint's series go with it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._balancer: Balancer | None = None
        registry.register(self)

    def watch(self, balancer: Balancer) -> None:
        """Show this balancer's endpoints from now on."""
        self._balancer = balancer

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yield each endpoint's state, and what the retry budget allowed and refused."""
        labels = ("endpoint",)
        pending = GaugeMetricFamily("gateway_upstream_pending", "Calls in hand at an inference server.", None, labels)
        up = GaugeMetricFamily("gateway_upstream_endpoint_up", "1 while the server says it is ready.", None, labels)
        state = GaugeMetricFamily(
            "gateway_upstream_breaker_state",
            "The worst of its models' breakers: 0 closed, 1 half-open, 2 open or the server is down.",
            None,
            labels,
        )
        ejections = CounterMetricFamily(
            "gateway_upstream_ejections", "Times a server, or a model on it, was taken out of use.", None, labels
        )
        failovers = CounterMetricFamily("gateway_upstream_failovers", "Lost calls that were sent once more.")
        exhausted = CounterMetricFamily(
            "gateway_upstream_retry_budget_exhausted", "Calls not sent once more because too many had been."
        )
        if self._balancer is not None:
            now = self._balancer.clock()
            for endpoint in self._balancer.endpoints:
                pending.add_metric((endpoint.address,), endpoint.pending)
                up.add_metric((endpoint.address,), endpoint.up)
                state.add_metric((endpoint.address,), endpoint.state(now))
                ejections.add_metric((endpoint.address,), endpoint.ejections)
            failovers.add_metric((), self._balancer.budget.spent)
            exhausted.add_metric((), self._balancer.budget.exhausted)
        yield from (pending, up, state, ejections, failovers, exhausted)


def _union(endpoints: Sequence[Endpoint]) -> list[IndexEntry]:
    union: dict[Key, IndexEntry] = {}
    for endpoint in endpoints:
        for entry in endpoint.index:
            if entry.ready and not endpoint.up:
                entry = replace(entry, ready=False, reason="its inference server is down")
            known = union.get((entry.name, entry.version))
            if known is None or (entry.ready and not known.ready):
                union[entry.name, entry.version] = entry
    return list(union.values())


def _rendezvous(address: str, name: str, sequence: Any) -> bytes:
    return blake2b(f"{address} {name} {sequence}".encode(), digest_size=8).digest()


def _sequence_of(request: Any) -> Any:
    """The id of the sequence that a `ModelInferRequest` belongs to; a false value where it belongs to none."""
    if "sequence_id" not in request.parameters:
        return None
    parameter = request.parameters["sequence_id"]
    return getattr(parameter, parameter.WhichOneof("parameter_choice") or "", None)


async def _chain(first: Any, rest: AsyncIterator[Any]) -> AsyncIterator[Any]:
    yield first
    async for request in rest:
        yield request
