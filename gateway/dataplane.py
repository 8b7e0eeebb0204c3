"""What every request goes through, whatever protocol it came by: admit, route, preprocess, check, infer, count.

HTTP and gRPC only translate. Each wraps its work in `call`, which times it, counts how it ended and frees its slot.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from contract import Contract, Repository
from contract.postprocess import answers, interpret
from contract.preprocess import Prepared, Preprocessor
from contract.tensor import Tensors, check_inputs, datatype_of
from gateway.catalog import Catalog, Change, Served, newest
from gateway.coalesce import Entry, Executor, Inference, Result, Values
from gateway.error import DeadlineExceeded, InvalidRequest, Overloaded, UpstreamFailed, UpstreamUnavailable
from gateway.metric import OTHER, Metrics
from gateway.outcome import OK, outcome_of
from gateway.setting import Settings
from gateway.upstream import Upstream, concatenate

log = logging.getLogger(__name__)

_DEADLINE_SLACK_S = 0.01


@dataclass(slots=True)
class Call:
    """One request in hand. Times are monotonic seconds."""

    served: Served
    started: float
    deadline: float
    stages: dict[str, float] = field(default_factory=dict)
    _marked: float = field(init=False)

    def __post_init__(self) -> None:
        self._marked = self.started

    @property
    def remaining_s(self) -> float:
        """Time left; DeadlineExceeded when there is none."""
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded("the request's time was up before the model was asked")
        return remaining

    def mark(self, stage: str) -> float:
        """End a stage: it took all the time since the last mark. The stages so add up to the whole request."""
        now = time.monotonic()
        took, self._marked = now - self._marked, now
        self.stages[stage] = self.stages.get(stage, 0.0) + took
        return took

    def mark_inference(self, upstream_s: float) -> None:
        """Divide the time since the last mark into waiting for a batch and the call to Triton."""
        waited = self.mark("queue")
        self.stages["queue"] -= min(upstream_s, waited)
        self.stages["upstream"] = self.stages.get("upstream", 0.0) + min(upstream_s, waited)


class DataPlane:
    """Serves the versions of a catalog through an upstream."""

    def __init__(self, settings: Settings, upstream: Upstream, repository: Repository, metrics: Metrics) -> None:
        self.settings = settings
        self.upstream = upstream
        self.metrics = metrics
        self.catalog = Catalog(repository, upstream, on_change=self._changed, on_up=metrics.upstream_up.set)
        metrics.contract_errors.set_function(lambda: len(self.catalog.refused))
        self._inflight = 0
        self._executors: dict[Served, Executor] = {}
        self._threads = ThreadPoolExecutor(settings.preprocess_threads, thread_name_prefix="preprocess")

    @contextmanager
    def call(self, protocol: str, name: str, version: str | None, timeout_s: float | None = None) -> Iterator[Call]:
        """Hold one request: find its version, take a slot, and when it ends, however it ends, count it.

        Raises UnknownModel, UpstreamUnavailable or Overloaded; passes on whatever the body raises.
        """
        started = time.monotonic()
        limit_s = self.settings.request_timeout_s
        deadline = started + (limit_s if timeout_s is None else min(timeout_s, limit_s))
        labels, outcome = self._labels(name, version), OK
        try:
            served = self.catalog.find(name, version)
            labels = (served.name, served.version)
            call = Call(served, started, deadline)
            with self._slot(served):
                kind = "pinned" if version else "latest"
                self.metrics.route.labels(served.name, f"{served.name}/{served.version}", kind).inc()
                yield call
            call.mark("postprocess")
            for stage, took in call.stages.items():
                self.metrics.stage.labels(served.name, stage).observe(took)
        except BaseException as exc:
            outcome = outcome_of(exc)
            if isinstance(exc, asyncio.CancelledError) and time.monotonic() > deadline - _DEADLINE_SLACK_S:
                outcome = outcome_of(DeadlineExceeded())  # gRPC cancels a call whose deadline passes
            raise
        finally:
            self.metrics.requests.labels(*labels, protocol, str(outcome.status)).inc()
            if outcome is OK or outcome.status >= 500:  # a refusal is quick, and says nothing of how fast we serve
                self.metrics.duration.labels(*labels, protocol).observe(time.monotonic() - started)

    async def predict(self, call: Call, items: Sequence[Any]) -> list[dict[str, Any]]:
        """Answer N items (image bytes, texts, rows) with one JSON object each."""
        contract, prepare = call.served.contract, call.served.preprocess
        if contract is None or prepare is None:
            raise InvalidRequest(f"model {call.served.name!r} takes tensors; send them by the V2 protocol")
        most = self.max_items(contract)
        if not 1 <= len(items) <= most:
            raise InvalidRequest(f"expected 1 to {most} items in one request, got {len(items)}")
        call.mark("admit")
        prepared = await self._prepare(call, prepare, items)
        call.mark("preprocess")
        inference = await self._infer(call, contract, prepared.tensors, prepared.observed)
        return answers(contract.postprocess, inference.outputs, inference.meaning)

    def max_items(self, contract: Contract) -> int:
        """How many items one predict request may hold."""
        return min(self.settings.max_items, contract.batch.max)

    async def _prepare(self, call: Call, prepare: Preprocessor, items: Sequence[Any]) -> Prepared:
        """Prepare items on the loop where that is cheaper than a change of threads, and off it otherwise."""
        try:
            if prepare.quick(items):
                return prepare(items, deadline=call.deadline)
            work = partial(prepare, items, deadline=call.deadline)
            async with asyncio.timeout(call.remaining_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            raise DeadlineExceeded("the request's time was up while its input was prepared") from None

    async def infer(self, call: Call, tensors: Tensors) -> Values:
        """Answer a V2 request's tensors with all of the model's outputs."""
        contract = call.served.contract
        call.mark("admit")
        if contract is None:
            self.metrics.attempts.labels(call.served.name).inc()
            outputs = await self.upstream.infer(call.served.name, call.served.version, tensors, call.remaining_s)
            call.mark("upstream")
            return outputs
        inference = await self._infer(call, contract, tensors, {})
        return inference.outputs

    async def close(self) -> None:
        """Let go of threads and connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self.upstream.close()

    def _labels(self, name: str, version: str | None) -> tuple[str, str]:
        """Labels of a request that isn't routed yet: the version it would go to, also while Triton is away."""
        versions = self.catalog.models().get(name)
        if versions is None:
            return self.metrics.label_of(name), OTHER
        return name, (version if version in versions else OTHER) if version else newest(versions)

    @contextmanager
    def _slot(self, served: Served) -> Iterator[None]:
        if self._inflight >= self.settings.max_inflight:
            self.metrics.shed.labels(served.name, "capacity").inc()
            raise Overloaded(f"the gateway has {self._inflight} requests in hand, its limit; try again in a second")
        inflight = self.metrics.inflight.labels(served.name)
        self._inflight += 1
        inflight.inc()
        try:
            yield
        finally:
            self._inflight -= 1
            inflight.dec()

    async def _infer(self, call: Call, contract: Contract, tensors: Tensors, observed: Values) -> Inference:
        num_samples = check_inputs(contract.inputs, contract.batch, tensors)
        ordered = {spec.name: tensors[spec.name] for spec in contract.inputs}
        executor = self._executors.get(call.served)
        if executor is None:  # the version went away between the request's arrival and now
            raise UpstreamUnavailable(f"model {contract.name!r} version {contract.version} is no longer served")
        _ = call.remaining_s
        inference = await executor.submit(ordered, observed, num_samples, call.deadline)
        call.mark_inference(inference.upstream_s)
        return inference

    def _changed(self, change: Change) -> None:
        """Take over the catalog's new versions and let go of the old ones."""
        for served in change.removed:
            self._executors.pop(served, None)
            self.metrics.retire(served.name, served.version)
        for served in change.added:
            if served.contract is None or served.observer is None:
                self.metrics.serve_without_contract(served.name, served.version)
            else:
                self.metrics.serve(served.contract, served.observer)
                self._executors[served] = self._executor(served, served.contract)
            log.info("serving %s version %s", served.name, served.version)

    def _executor(self, served: Served, contract: Contract) -> Executor:
        async def run(batch: Sequence[Entry], timeout_s: float) -> Result:
            inputs = concatenate([entry.tensors for entry in batch])
            num_samples = sum(entry.num_samples for entry in batch)
            self.metrics.attempts.labels(served.name).inc()
            self.metrics.batch_size.labels(served.name).observe(num_samples)
            outputs = await self.upstream.infer(served.name, served.version, inputs, timeout_s)
            _check_outputs(contract, num_samples, outputs)
            return Result(inputs, outputs, interpret(contract.postprocess, outputs))

        return Executor(
            run,
            max_batch=contract.batch.max,
            max_calls=self.settings.upstream_calls,
            on_result=lambda batch, result: self._count(served, batch, result),
            on_retry=self.metrics.retries.labels(served.name).inc,
            on_expired=self.metrics.shed.labels(served.name, "deadline").inc,
        )

    def _count(self, served: Served, batch: Sequence[Entry], result: Result) -> None:
        """Count a batch's features; whatever goes wrong here, the requests were answered."""
        assert served.observer is not None
        try:
            observed = concatenate([entry.observed for entry in batch])
            assigned = served.observer.assign(result.inputs, observed, result.meaning)
            self.metrics.features.count(served.name, served.version, assigned)
        except Exception:
            self.metrics.observation_errors.labels(served.name).inc()
            log.exception("features of a batch of %s version %s can't be counted", served.name, served.version)


def _check_outputs(contract: Contract, num_samples: int, outputs: Values) -> None:
    for spec in contract.outputs:
        array = outputs.get(spec.name)
        if array is None:
            raise UpstreamFailed(f"the model did not answer with output {spec.name!r}, which its contract promises")
        fits = array.ndim == len(spec.shape) + 1 and all(
            expected in (-1, came) for expected, came in zip((num_samples, *spec.shape), array.shape, strict=True)
        )
        if not fits or datatype_of(array) != spec.datatype:
            raise UpstreamFailed(
                f"the model's output {spec.name!r} is {datatype_of(array)} {list(array.shape)}; "
                f"its contract promises {spec.datatype} {[num_samples, *spec.shape]}"
            )
