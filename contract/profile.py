"""The reference profile: which bin a value falls into, and how full each bin was when the model was trained.

A gateway only counts bins, so drift over any window, and over any number of replicas, is arithmetic over counters.

Ordered features get 20 bins at the quantiles of the reference; the outermost two are split once more at the 1 % and
99 % quantile, and those two cells are marked as tail. A value equal to an edge belongs to the cell above it.
Categorical features get one bin a category. Every feature has the bin `missing`, categorical ones also `other`.
"""

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from contract.document import Document
from contract.embedding import Embedding

MISSING = "missing"
OTHER = "other"
CONFIDENCE = "confidence"  # the feature that says how sure a classifier is
PREDICTION = "prediction"  # the feature whose bins are the predicted labels

MAX_CATEGORIES = 23  # with `other` and `missing` 25 series
MIN_EXPECTED_COUNT = 5  # rarer categories are pooled into `other`: a chi-square needs that many

_LEVELS = (0.01, *(k / 20 for k in range(1, 20)), 0.99)
_CELLS = (("00", True), *((f"{k:02d}", False) for k in range(20)), ("19", True))


class Bin(Document):
    """One bin: its label, its share of the reference, and whether it is one of the two outermost cells."""

    id: str
    ratio: float = Field(ge=0, le=1)
    tail: bool = False


class Feature(Document):
    """One observed quantity and its bins.

    Ordered: `bins` are the cells between `edges` from low to high, then `missing`.
    Categorical: `bins` are `categories` in order, then `other` and `missing`.
    """

    name: str = Field(min_length=1, max_length=300)
    kind: Literal["ordered", "categorical"]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    bins: tuple[Bin, ...]
    num_samples: int = Field(ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "ordered":
            if self.categories or not self.edges or any(np.diff(self.edges) <= 0):
                raise ValueError(f"feature {self.name}: an ordered feature has strictly rising edges, no categories")
            expected = len(self.edges) + 2
        else:
            if self.edges or len(set(self.categories)) != len(self.categories):
                raise ValueError(f"feature {self.name}: a categorical feature has distinct categories, no edges")
            expected = len(self.categories) + 2
        if len(self.bins) != expected:
            raise ValueError(f"feature {self.name}: expected {expected} bins, got {len(self.bins)}")
        return self

    def assign(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Index into `bins` of each of an ordered feature's values `[N]`; NaN is `missing`."""
        index = np.searchsorted(self.edges, values, side="right")
        index[np.isnan(values)] = len(self.bins) - 1
        return index

    def lookup(self, labels: Sequence[str]) -> NDArray[np.intp]:
        """For a categorical feature: index into `bins` of each label `[N]`; unknown labels are `other`."""
        position = {category: i for i, category in enumerate(self.categories)}
        position[MISSING] = len(self.bins) - 1
        return np.array([position.get(label, len(self.bins) - 2) for label in labels], dtype=np.intp)


class BinAccuracy(Document):
    """How many predictions of one bin of confidence were right, on data that training never saw."""

    id: str
    num_right: int = Field(ge=0)
    num_samples: int = Field(ge=1)


class Profile(Document):
    """The reference distribution of every feature that drift is watched on.

    `confidence` says how often a classifier is right when it is that sure, which estimates its accuracy where no labels
    come back; the cells of one bin are together. `embedding` is there where an output of the model is watched as one.
    """

    features: tuple[Feature, ...] = ()
    confidence: tuple[BinAccuracy, ...] = ()
    embedding: Embedding | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [feature.name for feature in self.features]
        if len(set(names)) != len(names):
            raise ValueError(f"two features share a name: {names}")
        return self


def bin_accuracy(feature: Feature, values: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[BinAccuracy, ...]:
    """Right and all predictions `[M]` of each bin that `values` `[M]` of an ordered feature fall into."""
    ids = np.array([cell.id for cell in feature.bins])[feature.assign(values)]
    return tuple(
        BinAccuracy(id=str(id_), num_right=int(right[ids == id_].sum()), num_samples=int((ids == id_).sum()))
        for id_ in np.unique(ids)
    )


def ordered_feature(name: str, values: NDArray[np.float64]) -> Feature:
    """Profile of an ordered feature from its reference values `[M]`; NaN counts as missing.

    Raises ValueError when no value is a number.
    """
    present = np.sort(values[~np.isnan(values)])
    if present.size == 0:
        raise ValueError(f"feature {name}: no reference value is a number")
    edges = np.quantile(present, _LEVELS, method="inverted_cdf")
    lowest_at_top = int(np.argmax(edges == present[-1]))
    common_top = edges[-1] == present[-1]
    if common_top:  # the largest value is common: only what lies above it is the upper tail
        edges[-1] = np.nextafter(edges[-1], np.inf)
    kept = [0, *(k for k in range(1, len(edges)) if edges[k] > edges[k - 1])]
    cells = [_CELLS[k] for k in kept] + [_CELLS[-1]]
    if common_top and lowest_at_top < len(edges) - 1:
        # The cell of that value is named by the lowest level it fills, so that it shares its bin with neither tail:
        # values above and below it are to be seen.
        cells[-2] = _CELLS[max(lowest_at_top + 1, 2)]
    counts = np.histogram(present, bins=np.concatenate(([-np.inf], edges[kept], [np.inf])))[0]
    shares = [*(counts / present.size), 1 - present.size / values.size]
    names = [*cells, (MISSING, False)]
    return Feature(
        name=name,
        kind="ordered",
        edges=tuple(float(edge) for edge in edges[kept]),
        bins=tuple(
            Bin(id=cell, tail=tail, ratio=float(share)) for (cell, tail), share in zip(names, shares, strict=True)
        ),
        num_samples=int(values.size),
    )


def categorical_feature(name: str, values: Sequence[str], categories: Sequence[str]) -> Feature:
    """Profile of a categorical feature from its reference values and the categories it may take.

    Categories expected fewer than five times, and those beyond the 23 most frequent, are pooled into `other`.
    """
    count = dict.fromkeys(categories, 0)
    for value in values:
        if value in count:
            count[value] += 1
    frequent = sorted((c for c in count if count[c] >= MIN_EXPECTED_COUNT), key=lambda c: -count[c])[:MAX_CATEGORIES]
    kept = tuple(category for category in categories if category in set(frequent))
    missing = sum(value == MISSING for value in values)
    other = len(values) - missing - sum(count[category] for category in kept)
    shares = [count[category] for category in kept] + [other, missing]
    return Feature(
        name=name,
        kind="categorical",
        categories=kept,
        bins=tuple(
            Bin(id=label, ratio=share / len(values))
            for label, share in zip((*kept, OTHER, MISSING), shares, strict=True)
        ),
        num_samples=len(values),
    )
