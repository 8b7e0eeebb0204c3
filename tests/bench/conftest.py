"""Results made by hand, where what must come out can be worked out by hand."""

from collections.abc import Callable

import pytest

from bench.load import Figures, Shape
from bench.machine import Machine
from bench.result import Cell, Failure, PeerNote, Result, Run, Soak

MakeResult = Callable[..., Result]
MakeCell = Callable[..., Cell]


@pytest.fixture
def machine() -> Machine:
    return Machine(
        date="2026-01-01", processor="a processor", num_cores=2, memory_gib=24, system="a system", versions={"wrk": "4"}
    )


@pytest.fixture
def cell() -> MakeCell:
    """`cell(kind, connections=64, streams=1, model="tiny")`."""

    def make(kind: str, connections: int = 64, streams: int = 1, model: str = "tiny") -> Cell:
        return Cell(model, kind, Shape(connections=connections, streams=streams))

    return make


@pytest.fixture
def make_result(machine: Machine) -> MakeResult:
    """`make_result({cell: [answers/s, a round each]})`; p50 is 1000 / answers/s."""

    def make(
        measured: dict[Cell, list[float]], failures: tuple[Failure, ...] = (), peers: tuple[PeerNote, ...] = ()
    ) -> Result:
        return Result(
            machine=machine,
            command="python -m bench",
            seconds=2,
            rounds=3,
            num_processes=1,
            runs=tuple(
                _run(cell, round_, rate) for cell, rates in measured.items() for round_, rate in enumerate(rates)
            ),
            failures=failures,
            peers=peers,
            memory_mib={"gateway": 100.0},
        )

    return make


@pytest.fixture
def steady(machine: Machine) -> Soak:
    """A process that stays at about 150 MiB."""
    return Soak(machine=machine, command="soak", connections=64, num_processes=1, samples=((0, 150.0), (10, 151.5)))


def _run(cell: Cell, round_: int, rate: float) -> Run:
    return Run(
        round=round_,
        model=cell.model,
        kind=cell.kind,
        connections=cell.shape.connections,
        streams=cell.shape.streams,
        figures=Figures(answers_per_s=rate, p50_ms=1000 / rate, p99_ms=2000 / rate, num_answers=round(rate)),
    )
