"""What was measured, as it is kept in a file, and the arithmetic on it: ratios within a round, spread over rounds."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from bench.kind import COUNTING, UNCOUNTED
from bench.load import Figures, Shape
from bench.machine import Machine
from contract.document import Document


class Cell(NamedTuple):
    """What is measured once a round."""

    model: str
    kind: str
    shape: Shape


class Spread(NamedTuple):
    """The median over the rounds, and the least and greatest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Spread of at least one value."""
        return cls(median(values), min(values), max(values))


class Run(Document):
    """The figures of one cell in one round."""

    round: int
    model: str
    kind: str
    connections: int
    streams: int
    figures: Figures

    @property
    def cell(self) -> Cell:
        """Where it belongs."""
        return Cell(self.model, self.kind, Shape(connections=self.connections, streams=self.streams))


class Failure(Document):
    """Why there are no figures; `kind` is empty for a whole model, `load` for every load."""

    model: str
    kind: str = ""
    load: str = ""
    reason: str


class PeerNote(Document):
    """How a peer was set up; `versions` is empty where it couldn't be installed."""

    kind: str
    settings: str
    versions: dict[str, str]


class Soak(Document):
    """Resident memory of the largest gateway process over many requests: after how many, and how many MiB."""

    machine: Machine
    command: str
    connections: int
    num_processes: int
    samples: tuple[tuple[int, float], ...]


class Result(Document):
    """One run of the benchmark."""

    machine: Machine
    command: str
    seconds: int
    rounds: int
    num_processes: int
    runs: tuple[Run, ...]
    failures: tuple[Failure, ...]
    peers: tuple[PeerNote, ...]
    memory_mib: dict[str, float]

    def models(self) -> list[str]:
        """Models in the order they were measured."""
        return list(dict.fromkeys(run.model for run in self.runs))

    def cells(self, model: str) -> list[Cell]:
        """Cells of a model, by how much was in flight and then in the order they were measured."""
        cells = dict.fromkeys(run.cell for run in sorted(self.runs, key=lambda run: run.round) if run.model == model)
        return sorted(cells, key=lambda cell: (cell.shape.in_flight, cell.shape.streams))

    def figures(self, cell: Cell) -> dict[int, Figures]:
        """Figures of a cell by round."""
        return {run.round: run.figures for run in self.runs if run.cell == cell}

    def spread(self, cell: Cell, of: Callable[[Figures], float]) -> Spread | None:
        """One figure of a cell over the rounds; None when it wasn't measured."""
        values = [of(figures) for figures in self.figures(cell).values()]
        return Spread.of(values) if values else None

    def ratio(self, cell: Cell, base: Cell, of: Callable[[Figures], float]) -> Spread | None:
        """One figure of a cell over that of another in the same round; None when no round has both."""
        mine, theirs = self.figures(cell), self.figures(base)
        values = [of(mine[round_]) / of(theirs[round_]) for round_ in mine.keys() & theirs.keys()]
        return Spread.of(values) if values else None


def answers_per_s(figures: Figures) -> float:
    """Answers a second."""
    return figures.answers_per_s


def p50_ms(figures: Figures) -> float:
    """Median latency."""
    return figures.p50_ms


def p99_ms(figures: Figures) -> float:
    """99th percentile of the latency."""
    return figures.p99_ms


def base_of(result: Result, cell: Cell) -> Cell:
    """What a cell is compared with: Triton asked the same way under the same load, or the best loop for photographs.

    What counts, in turns with what doesn't: that.
    """
    loops = [c for c in result.cells(cell.model) if c.kind.startswith("loop-")]
    if loops:
        return max(loops, key=lambda loop: Spread.of([answers_per_s(f) for f in result.figures(loop).values()]).median)
    if cell.kind in COUNTING:
        return cell._replace(kind=UNCOUNTED)
    way = cell.kind.partition("-")[2]
    return cell._replace(kind=f"triton-{way if way in ('binary', 'grpc') else 'json'}")
