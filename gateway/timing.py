"""Counters and histograms that cost a request next to nothing, exported as those of prometheus_client are.

prometheus_client takes a lock and looks labels up for each observation, microseconds each time, and a request makes
around ten. Here the caller keeps its series, and one observation is one addition to a Python number.

There is no lock, and a scrape from another thread is still consistent. Only one thread, the event loop's, writes. A
scrape takes what it needs of a series in one step of the interpreter, which nothing can come between: a counter's
number, or a copy of a histogram's whole list. That copy is a state which the series really had, and all that is
exported of the series is derived from it, so cumulative counts never fall and `_count` is the `+Inf` bucket. Of an
observation being made, the bucket may be in the copy already and the sum not yet: the sum lags by one at most.

What is always counted together, all that there is to say of an answered request, costs less still: its times are put
aside, as plain doubles, for Python numbers that are kept would each take new memory; and numpy counts some hundreds as
fast as one. A scrape counts what was put aside into a copy, so that it misses nothing.
"""

import re
from abc import abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise, starmap
from math import inf
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from gateway.exposition import Lined, head, title

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

_MOST_ROWS = 512  # put aside by a tally

S = TypeVar("S")


class Count:
    """One series of a counter."""

    __slots__ = ("_more", "value")

    def __init__(self) -> None:
        self.value: float = 0
        self._more: list[Callable[[], float]] = []

    def inc(self, n: float = 1) -> None:
        """Count `n` more; a counter never goes down, so `n` is not negative."""
        self.value += n

    def also(self, counted: Callable[[], float]) -> None:
        """Export what is counted elsewhere as well."""
        self._more.append(counted)

    def read(self) -> float:
        """What is exported."""
        return self.value + sum([counted() for counted in self._more])


class Series:
    """One series of a histogram. The last cell holds the sum, those before it how many fell into each bucket."""

    __slots__ = ("_more", "bounds", "cells", "le")

    def __init__(self, bounds: Sequence[float], le: Sequence[str]) -> None:
        self.bounds = bounds
        self.le = le  # the bounds as text
        self.cells: list[float] = [0] * (len(bounds) + 1)
        self._more: list[Callable[[], NDArray[np.float64]]] = []

    def observe(self, value: float) -> None:
        """Count a value; NaN and infinities are left out, because one would spoil the sum for good."""
        if -inf < value < inf:
            cells = self.cells
            cells[bisect_left(self.bounds, value)] += 1
            cells[-1] += value

    def also(self, counted: Callable[[], NDArray[np.float64]]) -> None:
        """Export what is counted elsewhere, into cells like these, as well."""
        self._more.append(counted)

    def read(self) -> list[float]:
        """The cells that are exported."""
        cells = self.cells.copy()
        if self._more:
            cells = sum([counted() for counted in self._more], np.array(cells)).tolist()
        return cells


class Tally:
    """Counts what takes several times, one after the other: how many there were, each part's time, and their sum.

    It has no series of its own: it is exported as more of the given ones, each of which others may count too.
    """

    __slots__ = ("_bounds", "_most", "_num_parts", "_state")

    def __init__(self, numbers: Sequence[Count], parts: Sequence[Series], whole: Series) -> None:
        self._bounds = [np.array(each.bounds) for each in (*parts, whole)]
        self._num_parts = len(parts)
        self._most = len(parts) * _MOST_ROWS
        ends = list(accumulate((len(bounds) + 1 for bounds in self._bounds), initial=1))
        # What is counted, and the times put aside: one tuple, so that a scrape sees each of them on one side only.
        self._state = np.zeros(ends[-1]), array("d")
        for number in numbers:
            number.also(lambda: float(self._counted()[0]))
        for series, place in zip((*parts, whole), starmap(slice, pairwise(ends)), strict=True):
            series.also(lambda place=place: self._counted()[place])  # type: ignore[misc]

    def add(self, times: list[float]) -> None:
        """Count one more; the times of its parts are finite."""
        waiting = self._state[1]
        waiting.fromlist(times)
        if len(waiting) >= self._most:
            self._state = self._counted(), array("d")

    def _counted(self) -> NDArray[np.float64]:
        """The number, and the cells of each series, one after the other, with all that was put aside."""
        counted, waiting = self._state
        if not waiting:
            return counted
        times = np.frombuffer(waiting[:]).reshape(-1, self._num_parts)  # of a copy: the array itself must grow on
        more: list[NDArray[Any]] = [np.array([len(times)])]
        for column, bounds in zip((*times.T, times.sum(axis=1)), self._bounds, strict=True):
            more += np.bincount(bounds.searchsorted(column), minlength=len(bounds)), column.sum(keepdims=True)
        return np.asarray(counted + np.concatenate(more))


class _Family(Lined, Generic[S]):
    """What counters and histograms share: a name, label names, and a series for each tuple of label values."""

    def __init__(self, name: str, documentation: str, label_names: Sequence[str], reserved: Sequence[str] = ()) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected a metric name such as gateway_requests, got {name!r}")
        wrong = [label for label in label_names if not _LABEL_NAME.fullmatch(label) or label in reserved]
        if wrong or len(set(label_names)) != len(label_names):
            raise ValueError(f"metric {name}: expected distinct, unreserved label names, got {list(label_names)}")
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(label_names)
        self._children: dict[tuple[str, ...], S] = {}
        self._heads: dict[tuple[str, ...], list[str]] = {}

    def child(self, *labels: str) -> S:
        """The series of these label values, made at 0 when there is none; to be kept, not asked for again."""
        found = self._children.get(labels)
        if found is None:
            self._check(labels)
            found = self._children[labels] = self._new()
        return found

    def remove(self, *labels: str) -> None:
        """Stop exporting a series, if there is one; who still holds it counts in vain."""
        self._check(labels)
        self._children.pop(labels, None)
        self._heads.pop(labels, None)

    def describe(self) -> Iterable[Metric]:
        """The family without samples: the registry refuses a second one of the name."""
        return [self._family()]

    def collect(self) -> Iterable[Metric]:
        """The family with all its samples."""
        family = self._family()
        for labels, child in list(self._children.items()):  # a copy, made in one step like those of the series
            family.samples.extend(self._samples(dict(zip(self.label_names, labels, strict=True)), child))
        return [family]

    def lines(self) -> Iterable[str]:
        """The family's text."""
        family = self._family()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield title(name, family.type, self.documentation)
        for labels, child in list(self._children.items()):
            heads = self._heads.get(labels)
            if heads is None:
                named = dict(zip(self.label_names, labels, strict=True))
                heads = [head(sample.name, sample.labels) for sample in self._samples(named, child)]
                self._heads[labels] = heads
            yield from (f"{each}{value}\n" for each, value in zip(heads, self._values(child), strict=True))

    def _check(self, labels: tuple[str, ...]) -> None:
        if len(labels) != len(self.label_names):
            raise ValueError(f"metric {self.name}: expected values for labels {self.label_names}, got {labels}")

    @abstractmethod
    def _new(self) -> S: ...

    @abstractmethod
    def _family(self) -> Metric: ...

    @abstractmethod
    def _samples(self, labels: dict[str, str], child: S) -> Iterable[Sample]: ...

    @abstractmethod
    def _values(self, child: S) -> Iterable[float]:
        """The numbers of `_samples`, in its order."""


class Counters(_Family[Count]):
    """A counter by labels; its name may be given with or without `_total`."""

    def __init__(self, name: str, documentation: str, label_names: Sequence[str] = ()) -> None:
        super().__init__(name.removesuffix("_total"), documentation, label_names)

    def _new(self) -> Count:
        return Count()

    def _family(self) -> Metric:
        return CounterMetricFamily(self.name, self.documentation)

    def _samples(self, labels: dict[str, str], child: Count) -> Iterable[Sample]:
        return [Sample(f"{self.name}_total", labels, child.read())]

    def _values(self, child: Count) -> Iterable[float]:
        return (child.read(),)


class Histograms(_Family[Series]):
    """A histogram by labels; `buckets` are upper bounds, rising, and end at +Inf whether they say so or not."""

    def __init__(self, name: str, documentation: str, label_names: Sequence[str], buckets: Iterable[float]) -> None:
        super().__init__(name, documentation, label_names, reserved=("le",))
        bounds = [float(bound) for bound in buckets]
        if not bounds or bounds[-1] != inf:
            bounds.append(inf)
        if len(bounds) < 2 or not all(low < high for low, high in pairwise(bounds)):  # NaN is less than nothing
            raise ValueError(f"metric {name}: expected buckets that rise, at least one besides +Inf, got {bounds}")
        self._bounds, self._le = bounds, _le(bounds)

    def _family(self) -> Metric:
        return HistogramMetricFamily(self.name, self.documentation)

    def _samples(self, labels: dict[str, str], child: Series) -> Iterable[Sample]:
        bucket = f"{self.name}_bucket"
        named = [*((bucket, {**labels, "le": le}) for le in child.le), (f"{self.name}_count", labels)]
        if child.bounds[0] >= 0:
            named.append((f"{self.name}_sum", labels))
        return [Sample(*each, value) for each, value in zip(named, self._values(child), strict=True)]

    def _values(self, child: Series) -> Iterable[float]:
        *counts, total = child.read()
        cumulative = list(accumulate(counts))
        # With negative values a sum may fall, which would look like a restart.
        return [*cumulative, cumulative[-1], *([total] if child.bounds[0] >= 0 else [])]

    def child_with(self, bound: float, *labels: str) -> Series:
        """The series of these label values; when it is made now, with a bucket more."""
        if labels not in self._children:
            self._check(labels)
            bounds = sorted({*self._bounds, bound})
            self._children[labels] = Series(bounds, _le(bounds))
        return self._children[labels]

    def _new(self) -> Series:
        return Series(self._bounds, self._le)


def _le(bounds: Iterable[float]) -> list[str]:
    return [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]  # the library isn't annotated
