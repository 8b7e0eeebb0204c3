"""The rounds: every cell once a round, neighbours in time, so that what the machine does meanwhile hits all alike."""

import time
from collections.abc import Callable, Sequence

from bench.case import Case
from bench.error import BenchError, LoadError
from bench.kind import TITLES
from bench.load import Figures, Shape
from bench.result import Cell, Failure, Run

WARM_UP_S = 1

_TOLERANCE_RATIO = 0.02
_SETTLE_LIMIT_S = 5.0

Say = Callable[[str], None]


def measure(
    cases: Sequence[Case], rounds: int, duration_s: int, say: Say, *, settle_s: float = 0.1
) -> tuple[list[Run], list[Failure]]:
    """Measure every case in every round, in the opposite order in every other; a cell that fails once is left out."""
    failed: dict[Cell, Failure] = {}
    runs: list[Run] = []
    shapes = sorted({shape for case in cases for shape in case.shapes}, key=lambda s: (s.in_flight, s.streams))
    for round_ in range(-1, rounds):  # round -1 warms up
        for shape in shapes:
            for case in cases if round_ % 2 == 0 else reversed(cases):
                cell = Cell(case.model, case.kind.id, shape)
                if shape not in case.shapes or cell in failed:
                    continue
                what = f"round {round_ + 1} of {rounds}" if round_ >= 0 else "warm-up"
                say(f"{case.model}, {what}: {TITLES[case.kind.id]}, {shape} in flight")
                try:
                    if round_ < 0:
                        _check(case)
                    figures = _once(case, shape, duration_s if round_ >= 0 else WARM_UP_S, settle_s)
                except BenchError as exc:
                    failed[cell] = Failure(model=case.model, kind=case.kind.id, load=str(shape), reason=str(exc))
                    continue
                if round_ >= 0:
                    runs.append(_run(round_, cell, figures))
    return [run for run in runs if run.cell not in failed], list(failed.values())


def agree(num_answers: int, num_served: int, in_flight: int) -> bool:
    """Whether a load generator's count and the server's are of the same requests.

    They differ by what was in flight when the load began and ended, and by little else.
    """
    return abs(num_served - num_answers) <= 2 * in_flight + _TOLERANCE_RATIO * num_answers


def _check(case: Case) -> None:
    with case.awake():
        case.kind.check()


def _once(case: Case, shape: Shape, duration_s: int, settle_s: float) -> Figures:
    with case.awake():
        before = case.served() if case.served else 0
        figures = case.kind.load(shape, duration_s)
        after = _settled(case, settle_s)
        if case.served:
            num_served = after - before
            if not agree(figures.num_answers, num_served, shape.in_flight):
                raise LoadError(f"{figures.num_answers} answers came, but {num_served} samples were inferred")
    return figures


def _settled(case: Case, settle_s: float) -> int:
    """Wait until what was in flight at the end is done with, so that it costs the next one nothing; what was served."""
    deadline = time.monotonic() + _SETTLE_LIMIT_S
    served = -1
    while True:
        time.sleep(settle_s)
        before, served = served, case.served() if case.served else 0
        if served == before or case.served is None or time.monotonic() > deadline:
            return served


def _run(round_: int, cell: Cell, figures: Figures) -> Run:
    return Run(
        round=round_,
        model=cell.model,
        kind=cell.kind,
        connections=cell.shape.connections,
        streams=cell.shape.streams,
        figures=figures,
    )
