"""The fast lane's statistic: an e-detector, which may be looked at after every minute and still keeps its promise.

For each feature a set of alternatives is held against the reference q: that its mean rank has moved, that its ranks
have spread or shrunk, that its tails, a category or its unseen values have become more or fewer, each in three sizes.
For a minute's counts x each alternative p has a likelihood ratio L = prod (p_b / q_b)^x_b, and R <- L (1 + R) is its
Shiryaev-Roberts statistic; the feature's evidence is the mean of R over its alternatives. While q holds, R minus the
number of minutes is a martingale, so the mean time until R first reaches c is *at least c minutes of traffic*, however
often one looks and whatever the traffic's rate. Minutes without a sample don't count.
Source: Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric framework for sequential change detection" (2023), theorem
2.4; Roberts, "A comparison of some control chart procedures" (1966).

Sizes are in standard deviations; PSI is about size^2. A shift within the floor, a tenth of a standard deviation where
none was measured, is let be: traffic has its rhythm; tails and unseen values have none. And a reference of M samples is
itself uncertain. So each alternative is held against the worst null within `2 / sqrt M` and the root of the floor. In
an exponential family that ratio keeps its expectation below 1 for every null nearer (monotone likelihood ratio); for
shares, nothing is assumed at all.

What the promise doesn't cover: requests that come in sessions. Log-ratios are divided by a measured dispersion d, and
bounded at half of what would make the expectation infinite for geometric sessions, d ln((d + 1) / (d - 1)), lest a long
session of rare values be taken for a change. That is a correction and no proof; the evaluation in docs/drift.md says
how well it does.

Evidence is forgotten: a chain begins every `HORIZON` steps and ends two later, and what is shown is the older one. A
shorter memory only makes R smaller, so the promise stands, and whoever starts anew needs that much history and no more.
Log-ratios are whole multiples of 2^-20, rounded down: sums of them are exact, whatever order they are added in, so two
instances that read the same counters agree to the last bit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.profile import MISSING, OTHER

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Cell = tuple[str, bool]  # bin, and whether it is a tail's

STEP_S = 60
HORIZON = 720  # steps: twelve hours
SIZES = (0.25, 0.5, 1.0)  # each finds its own size quickest
FLOOR = 0.01  # as an unbiased PSI

_UNIT = 2.0**-20
_DEGENERATE = 1e-6  # a variance of scores that is nothing but rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A feature's cells with their shares of the reference, its M samples, and what was measured of its traffic."""

    shares: Mapping[Cell, float]
    num_samples: float
    dispersion: float = 1.0
    floor: float = FLOOR

    @property
    def cells(self) -> tuple[Cell, ...]:
        """In the order that the alternatives have their columns in."""
        return tuple(sorted(self.shares, key=_rank))


class Detector:
    """The evidence of one feature. Its state is a function of the counts since the older chain began."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._ratios = alternatives(reference)
        self._chains = np.full((2, len(self._ratios)), -np.inf)  # the older, the newer; ln R
        self.num_samples = self._num_newer = 0  # behind the evidence, and behind what it will be

    def renew(self, reference: Reference) -> None:
        """Go by another dispersion or floor from now on; another profile starts anew."""
        if reference == self.reference:
            return
        if reference.cells != self.reference.cells:
            self._chains[:] = -np.inf
        self.reference, ratios = reference, alternatives(reference)
        if len(ratios) != len(self._ratios):
            self._chains = np.full((2, len(ratios)), -np.inf)
        self._ratios = ratios

    def rotate(self) -> None:
        """End the older chain and begin a new one."""
        self._chains[0], self._chains[1] = self._chains[1], -np.inf
        self.num_samples, self._num_newer = self._num_newer, 0

    def update(self, counts: Counts) -> Floats:
        """Take in the counts `[cells, steps]` of some steps; returns the evidence, log10 R, after each.

        That is the power of ten of minutes that it takes at least, on average, to come so far without drift.
        """
        steps = (self._ratios @ counts).T * _UNIT
        totals = counts.sum(axis=0)
        older = np.empty(steps.shape)
        for step, ratios in enumerate(steps):
            if totals[step]:
                self._chains = ratios + np.logaddexp(0, self._chains)
            older[step] = self._chains[0]
        self.num_samples, self._num_newer = self.num_samples + int(totals.sum()), self._num_newer + int(totals.sum())
        return np.asarray((np.logaddexp.reduce(older, axis=1) - np.log(len(self._ratios))) / np.log(10))


def alternatives(reference: Reference) -> NDArray[np.int64]:
    """Log-likelihood ratios `[alternatives, cells]` of every alternative to the reference, in units of 2^-20.

    Which alternatives there are depends on the cells alone; one within the floor is a row of zeros, which grows slowly.
    """
    cells, q = reference.cells, np.array([reference.shares[cell] for cell in reference.cells])
    exact = 2 / np.sqrt(reference.num_samples)
    near = exact + np.sqrt(max(reference.floor, 0.0))
    shape = np.array([name != MISSING and (name != OTHER or q > 0) for (name, _), q in zip(cells, q, strict=True)])
    tails = shape & np.array([is_tail for _, is_tail in cells])
    inside = np.where(shape, q, 0) / max(q[shape].sum(), _UNIT)
    rows = list(_ordered_rows(inside, near) if tails.any() else _category_rows(inside, shape, near))
    rows += _share_rows(inside, tails, exact, (1, -1)) if tails.any() else ()
    rows = [np.where(shape, row, 0) for row in rows]  # what lies outside of the shape says nothing about it
    for name in (MISSING, OTHER):
        outside = np.array([cell == (name, False) for cell in cells]) & ~shape
        rows += _share_rows(q, outside, exact, (1,)) if outside.any() else ()
    return _whole(np.array(rows).reshape(-1, len(cells)), max(reference.dispersion, 1.0))


def _whole(ratios: Floats, dispersion: float) -> NDArray[np.int64]:
    if dispersion > 1:
        ratios = np.minimum(ratios, dispersion / 2 * np.log((dispersion + 1) / (dispersion - 1)))
    return np.floor(ratios / dispersion / _UNIT).astype(np.int64)


def _ordered_rows(q: Floats, near: float) -> Iterable[Floats]:
    rank = np.cumsum(q) - q / 2 - 0.5
    for raw in (rank, rank**2):
        centred = raw - q @ raw
        variance = float(q @ centred**2)
        for size in SIZES:
            for sign in (1, -1):
                score = sign * centred / np.sqrt(max(variance, _DEGENERATE))
                yield _tilt(q, score, near, size) if variance > _DEGENERATE else np.zeros(len(q))


def _category_rows(q: Floats, shape: NDArray[np.bool_], near: float) -> Iterable[Floats]:
    for one in np.eye(len(q), dtype=bool)[shape]:
        yield from _share_rows(q, one, near, (1, -1))


def _tilt(q: Floats, score: Floats, near: float, size: float) -> Floats:
    """Log-ratio of q tilted by `size` along a standardised score to q tilted by `near`; zeros when it isn't beyond."""
    if size <= near:
        return np.zeros(len(q))
    far, close = (np.log(np.sum(q * np.exp(theta * score))) for theta in (size, near))
    return np.asarray((size - near) * score - (far - close))


def _share_rows(q: Floats, chosen: NDArray[np.bool_], near: float, signs: Sequence[int]) -> Iterable[Floats]:
    """Rows for the share of the chosen cells having risen or fallen, in sizes of the arcsine scale."""
    middle = np.arcsin(np.sqrt(min(float(q[chosen].sum()), 1.0)))
    for size in SIZES:
        for sign in signs:
            far, close = middle + sign * size / 2, middle + sign * near / 2
            if size <= near or not (0 < far < np.pi / 2 and 0 < close < np.pi / 2):
                yield np.zeros(len(q))  # a share can't fall below 0, nor rise above 1
                continue
            p, null = np.sin(far) ** 2, np.sin(close) ** 2
            yield np.where(chosen, np.log(p / null), np.log((1 - p) / (1 - null)))


def _rank(cell: Cell) -> tuple[str, int]:
    """Order of the cells along an ordered feature: the lowest tail comes before its bin, the highest after it."""
    name, is_tail = cell
    return name, (-1 if name == "00" else 1) if is_tail else 0
