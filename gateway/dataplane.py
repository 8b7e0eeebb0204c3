"""What every request goes through, whatever protocol it came by: admit, route, preprocess, check, infer, count.

HTTP and gRPC only translate. Each wraps its work in `call`, which times it, counts how it ended and frees its slot.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np

from contract import Contract, Repository
from contract.answer import Answerer, Answers
from contract.postprocess import interpret
from contract.preprocess import Prepared, Preprocessor
from contract.room import Room
from contract.tensor import Tensors, as_samples, as_sent, check_inputs, check_shapes, check_values, datatype_of
from gateway.access import Access
from gateway.admission import Admission
from gateway.call import MAX_PRIORITY, Ask, Call
from gateway.catalog import Catalog, Change, Served
from gateway.coalesce import Entry, Executor, Inference, Result, Values
from gateway.errand import Errands
from gateway.error import DeadlineExceeded, InvalidRequest, UpstreamFailed, UpstreamUnavailable
from gateway.feedback import Feedback
from gateway.journal import Journal
from gateway.metric import Metrics
from gateway.observation import Observation
from gateway.reservoir import Reservoir
from gateway.route_file import RouteFile
from gateway.routing import Routing
from gateway.setting import Settings
from gateway.shadow import Shadow
from gateway.upstream import GRACE_S, Batch, Upstream
from gateway.v2 import InferRequest

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_OURS = {"timeout", "priority", "binary_data_output"}


class DataPlane:
    """Serves the versions of a catalog through an upstream, as the routes say."""

    def __init__(
        self,
        settings: Settings,
        upstream: Upstream,
        repository: Repository,
        metrics: Metrics,
        *,
        routes: RouteFile,
        shadow: Shadow,
        access: Access,
        feedback: Feedback,
        journal: Journal,
    ) -> None:
        self.settings = settings
        self.counting = settings.counting  # looked at for every request, and settings' attributes aren't plain ones
        self.upstream = upstream
        self.metrics = metrics
        self.routes = routes
        self.shadow = shadow
        self.access = access
        self.feedback = feedback
        self.journal = journal
        self.catalog = Catalog(
            repository,
            upstream,
            room=Room(settings.decode_bytes),
            on_change=self._changed,
            on_up=metrics.upstream_up.set,
        )
        self.routing = Routing(self.catalog, routes, shadow, metrics, shadow_timeout_s=settings.request_timeout_s)
        metrics.contract_errors.set_function(lambda: len(self.catalog.refused))
        self.inflight = 0
        self._configs: dict[Served, Any] = {}
        self._observations: dict[Served, Observation] = {}
        self._executors: dict[Served, Executor] = {}
        self._errands: dict[Served, Errands] = {}
        self._threads = ThreadPoolExecutor(settings.preprocess_threads, thread_name_prefix="preprocess")

    def call(self, ask: Ask) -> Admission:
        """Admit one request: find who serves it, take a slot, and when it ends, however it ends, count it.

        A context manager that gives the `Call`. Raises UnknownModel, UpstreamUnavailable or Overloaded; passes on
        whatever the body raises.
        """
        return Admission(self, ask)

    async def predict(self, call: Call, items: Sequence[Any]) -> list[dict[str, Any]]:
        """Answer N items (image bytes, texts, rows) with one JSON object each."""
        call.mark("admit")
        inference = await self.routing.serve(call, partial(self._predict_by, items))
        contract, answer = call.served.contract, call.served.answer
        assert contract is not None
        assert answer is not None
        outputs = inference.outputs
        if not answer.quick(outputs, call.places):
            return await self._answer_off_loop(call, contract, answer, outputs)
        predictions = answer(outputs, inference.meaning, call.places)
        self.feedback.sign(contract, inference.meaning, predictions)
        return predictions

    async def infer(self, call: Call, request: InferRequest) -> Values:
        """Answer a V2 request's tensors with all of the model's outputs."""
        call.mark("admit")
        parameters = _heed(call, request.parameters) if request.parameters else None
        ask = partial(self._infer_by, request.tensors, parameters)
        outputs = (await self.routing.serve(call, ask)).outputs
        contract = call.served.contract
        return outputs if contract is None else as_sent(contract.batch_axis, outputs)

    async def config(self, served: Served) -> Any:
        """Triton's `ModelConfigResponse` of a version, asked for once: a version's configuration never changes."""
        if served not in self._configs:
            timeout_s = self.settings.request_timeout_s
            self._configs[served] = await self.upstream.model_config(served.name, served.version, timeout_s)
        return self._configs[served]

    def max_items(self, contract: Contract) -> int:
        """How many items one predict request may hold."""
        return min(self.settings.max_items, contract.batch.max)

    async def close(self) -> None:
        """Let go of threads and connections."""
        self.count_now()
        await self.shadow.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        calls: list[asyncio.Task[Any]] = [task for executor in self._executors.values() for task in executor.tasks]
        calls += [task for errands in self._errands.values() for task in errands.tasks]
        if calls:  # whoever waited has left: until they end, closing the connection would be to cancel them
            await asyncio.wait(calls, timeout=2 * GRACE_S)
        await self.upstream.close()
        await asyncio.to_thread(self.journal.close, self.settings.drain_timeout_s)

    def count_now(self) -> None:
        """Count the features of what was inferred up to now, instead of in a moment."""
        for observation in self._observations.values():
            observation.count()

    def examples(self, served: Served, feature: str) -> list[dict[str, Any]]:
        """Recent requests of the bins of a feature that are too full; raises InvalidRequest when none are kept."""
        observation = self._observations.get(served)
        if observation is None or observation.reservoir is None:
            raise InvalidRequest("no example requests are kept: TIDEGATE_EXAMPLES is off")
        observation.count()
        try:
            return observation.reservoir.examples(feature)
        except KeyError:
            known = ", ".join(one.name for one in served.observer.features) if served.observer else ""
            raise InvalidRequest(f"expected one of the features {known:.400}, got {feature!r:.80}") from None

    async def _predict_by(self, items: Sequence[Any], call: Call, deadline: float) -> Inference:
        served = call.served
        contract, prepare = served.contract, served.preprocess
        if contract is None or prepare is None:
            raise InvalidRequest(f"model {served.name!r} takes tensors; send them by the V2 protocol")
        most = self.max_items(contract)
        if not 1 <= len(items) <= most:
            raise InvalidRequest(f"expected 1 to {most} items in one request, got {len(items)}")
        prepared = await self._prepare(prepare, items, deadline)
        call.mark("preprocess")
        call.places = prepared.places
        return await self._coalesced(call, prepared.tensors, prepared.observed, deadline)

    def _infer_by(
        self, tensors: Tensors, parameters: Mapping[str, Any] | None, call: Call, deadline: float
    ) -> Awaitable[Inference]:
        contract = call.served.contract
        if contract is None or parameters:
            return self._alone(call, tensors, parameters, deadline)
        if not contract.batched:
            check_inputs(contract.inputs, None, tensors)
            tensors = as_samples(None, tensors)  # one sample: as such it is counted and interpreted
        return self._coalesced(call, tensors, {}, deadline)

    async def _prepare(self, prepare: Preprocessor, items: Sequence[Any], deadline: float) -> Prepared:
        """Prepare items on the loop where that is cheaper than a change of threads, and off it otherwise."""
        try:
            if prepare.quick(items):
                return prepare(items, deadline=deadline)
            return await self._off_loop(partial(prepare, items, deadline=deadline), deadline)
        except TimeoutError:
            raise DeadlineExceeded("the request's time was up while its input was prepared") from None

    async def _answer_off_loop(self, call: Call, contract: Contract, answer: Answerer, outputs: Values) -> Answers:
        """Answer what would keep others waiting: its own outputs alone are interpreted, not those of its batch."""

        def work() -> Answers:
            return answer(outputs, interpret(contract.postprocess, outputs), call.places)

        try:
            return await self._off_loop(work, call.deadline)
        except TimeoutError:
            raise DeadlineExceeded("the request's time was up while its answer was made") from None

    async def _off_loop(self, work: Callable[[], _T], deadline: float) -> _T:
        """Do work in one of the threads; TimeoutError when the deadline (monotonic seconds) passes."""
        async with asyncio.timeout(deadline - time.monotonic()):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _coalesced(self, call: Call, tensors: Tensors, observed: Values, deadline: float) -> Inference:
        """Have a request's share of a batch."""
        served = call.served
        executor = self._executors.get(served)
        if executor is None:  # the version went away between the request's arrival and now
            raise UpstreamUnavailable(f"model {served.name!r} version {served.version} is no longer served")
        inference = await executor.submit(tensors, observed, deadline, call.priority, call.span, call.ask.request_id)
        call.batch_samples = inference.batch_samples
        call.mark_inference(inference.upstream_s)
        return inference

    async def _alone(
        self, call: Call, tensors: Tensors, parameters: Mapping[str, Any] | None, deadline: float
    ) -> Inference:
        """Have a call to Triton to oneself: parameters are for all of it, and without a contract nothing is known."""
        served = call.served
        if served.contract is not None:
            check_inputs(served.contract.inputs, served.contract.batch_axis, tensors)
        errands = self._errands.get(served)
        if errands is None:
            errands = self._errands[served] = Errands(self.settings.max_inflight)
        metadata = self.journal.upstream_metadata([call.span])
        batch = Batch(served.name, served.version, [tensors], call.priority, parameters, metadata)
        outputs = await errands.run(self._attempt(batch, deadline), deadline)
        call.mark("upstream")
        if served.contract is not None:
            outputs = as_samples(served.contract.batch_axis, outputs)
        return Inference(Result(outputs, 1, lambda _: None), None, 0.0)

    async def _attempt(self, batch: Batch, deadline: float) -> Values:
        self.metrics.series(batch.name, batch.version).attempts.inc()
        return await self.upstream.infer(batch, deadline - time.monotonic())

    def _changed(self, change: Change) -> None:
        """Take over the catalog's new versions and let go of the old ones."""
        for served in change.removed:
            self._executors.pop(served, None)
            self._errands.pop(served, None)
            self._configs.pop(served, None)
            if served in self._observations:
                self._observations.pop(served).count()
            self.metrics.retire(served.name, served.version)
        for served in change.added:
            if served.contract is None or served.observer is None:
                self.metrics.serve_without_contract(served.name, served.version)
            else:
                self.metrics.serve(served.contract, served.observer)
                self.feedback.serve(served.contract)
                self._executors[served] = self._executor(served, served.contract)
            log.info("serving %s version %s", served.name, served.version)

    def _observation(self, served: Served) -> Callable[[Sequence[Entry], Result], None]:
        if not self.counting:
            return lambda _, __: None
        per_s, reservoir = self.settings.observed_per_s, self._reservoir(served)
        observation = self._observations[served] = Observation(served, self.metrics, per_s, reservoir)
        return observation.add

    def _reservoir(self, served: Served) -> Reservoir | None:
        kept = self.settings.examples
        if kept == "off" or served.observer is None:
            return None
        return Reservoir(
            served.observer.features, keep_inputs=kept == "inputs", clock=time.time, random=np.random.default_rng()
        )

    def _executor(self, served: Served, contract: Contract) -> Executor:
        series = self.metrics.series(served.name, served.version)

        async def run(batch: Sequence[Entry], timeout_s: float) -> Result:
            parts = [as_sent(contract.batch_axis, entry.tensors) for entry in batch]
            num_samples = sum(entry.num_samples for entry in batch)
            series.attempts.inc()
            series.batch_size.observe(num_samples)
            metadata = self.journal.upstream_metadata([entry.span for entry in batch])
            asked = Batch(served.name, served.version, parts, batch[0].priority, None, metadata)
            outputs = as_samples(contract.batch_axis, await self.upstream.infer(asked, timeout_s))
            _check_outputs(contract, num_samples, outputs)
            return Result(outputs, num_samples, partial(interpret, contract.postprocess))

        return Executor(
            run,
            check_shapes=partial(check_shapes, contract.inputs, contract.batch),
            check_values=partial(check_values, contract.inputs),
            max_batch=contract.batch.max,
            max_calls=self.settings.upstream_calls,
            on_result=self._observation(served),
            on_retry=series.retries.inc,
        )


def _heed(call: Call, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Take the parameters that the gateway itself acts upon; what is left is the model's."""
    left = {name: value for name, value in parameters.items() if name not in _OURS}
    timeout, priority = parameters.get("timeout"), parameters.get("priority")
    if timeout is not None:
        if type(timeout) is not int or timeout <= 0:  # a bool is an int too
            raise InvalidRequest(f"expected a positive number of microseconds in 'timeout', got {timeout!r:.40}")
        call.limit(timeout / 1e6)
    if priority is not None:
        if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
            raise InvalidRequest(f"expected a priority of 0 to {MAX_PRIORITY}, got {priority!r:.40}")
        call.priority = priority
    return left


def _check_outputs(contract: Contract, num_samples: int, outputs: Values) -> None:
    for spec in contract.outputs:
        array = outputs.get(spec.name)
        if array is None:
            raise UpstreamFailed(f"the model did not answer with output {spec.name!r}, which its contract promises")
        promised = (num_samples, *spec.wire_shape)
        fits = array.ndim == len(promised) and all(
            expected in (-1, came) for expected, came in zip(promised, array.shape, strict=True)
        )
        if not fits or datatype_of(array) != spec.datatype:
            raise UpstreamFailed(
                f"the model's output {spec.name!r} is {datatype_of(array)} {list(array.shape)}; "
                f"its contract promises {spec.datatype} {list(promised)}"
            )
