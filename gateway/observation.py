"""Counts the features of what was inferred, some batches at a time, and not more of them than drift has use for.

What numpy costs for one sample it costs for a hundred. So batches are put aside and counted together: soon, but not
between a request and its answer. Shares need a sample, not every sample: of a busy version so many a second are
counted, in whole batches, and the rest is counted as unobserved. Which ones doesn't depend on what is in them.
"""

import asyncio
import logging
import time
from collections.abc import Sequence

import numpy as np

from contract.tensor import Tensors
from gateway.catalog import Served
from gateway.coalesce import Entry, Result, Values
from gateway.metric import Metrics
from gateway.reservoir import Reservoir

log = logging.getLogger(__name__)

_DELAY_S = 0.1
_MAX_SAMPLES = 512
_MAX_BYTES = 4 * 1024 * 1024


class Observation:
    """What waits to be counted of one version. What is lost with a process is at most a tenth of a second's counts.

    No more than `samples_per_s` are counted in the long run, and as many at once after a second of less.
    """

    def __init__(
        self, served: Served, metrics: Metrics, samples_per_s: int, reservoir: Reservoir | None = None
    ) -> None:
        assert served.observer is not None
        self.reservoir = reservoir
        self._per_s = self._allowance = float(samples_per_s)
        self._added = time.monotonic()
        self._unobserved = metrics.series(served.name, served.version).unobserved
        self._served = served
        self._observer = served.observer
        self._metrics = metrics
        self._waiting: dict[object, list[_Batch]] = {}
        self._num_samples = self._num_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, batch: Sequence[Entry], result: Result) -> None:
        """Put a batch aside, or leave it out."""
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._added) * self._per_s, self._per_s)
        self._added = now
        if self._allowance <= 0:
            self._unobserved.inc(result.num_samples)
            return
        self._allowance -= result.num_samples  # below 0, if need be: large batches are counted as readily as small ones
        first = batch[0].tensors
        signature = tuple((name, array.shape[1:]) for name, array in (*first.items(), *result.outputs.items()))
        # The arrays alone are kept: the requests that they came with can go.
        inputs = [entry.tensors for entry in batch]
        ids = [entry.request_id for entry in batch for _ in range(entry.num_samples)] if self.reservoir else []
        kept = (inputs, result.outputs, [entry.observed for entry in batch if entry.observed], ids)
        self._waiting.setdefault((signature, *batch[0].observed), []).append(kept)
        self._num_samples += result.num_samples
        sample_bytes = sum(array.nbytes for array in first.values()) // batch[0].num_samples
        self._num_bytes += sample_bytes * result.num_samples + sum(array.nbytes for array in result.outputs.values())
        if self._num_samples >= _MAX_SAMPLES or self._num_bytes >= _MAX_BYTES:
            self.count()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_DELAY_S, self.count)

    def count(self) -> None:
        """Count all that waits; whatever goes wrong here, the requests were answered."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        self._num_samples = self._num_bytes = 0
        for batches in waiting.values():
            try:
                self._count(batches)
            except Exception:
                name, version = self._served.name, self._served.version
                self._metrics.series(name, version).observation_errors.inc()
                log.exception("features of %d batches of %s version %s can't be counted", len(batches), name, version)

    def _count(self, batches: "Sequence[_Batch]") -> None:
        inputs = _joined([each for inputs, _, _, _ in batches for each in inputs])
        outputs = _joined([outputs for _, outputs, _, _ in batches])
        observed = _joined([each for _, _, observed, _ in batches for each in observed])
        meaning, embedded = self._observer.interpret(outputs), self._observer.embedded(outputs)
        assigned = self._observer.assign(inputs, observed, meaning, embedded)
        self._metrics.features.count(self._served.name, self._served.version, assigned)
        if self.reservoir is not None:
            self.reservoir.offer(assigned, inputs, [one for _, _, _, ids in batches for one in ids])


# Each request's inputs, all outputs, what each request saw before its tensors were made, and each sample's request id.
_Batch = tuple[list[Tensors], Values, list[Values], list[str]]


def _joined(parts: Sequence[Tensors]) -> Tensors:
    if not parts:
        return {}
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
