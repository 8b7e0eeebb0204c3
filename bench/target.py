"""The targets, and what was measured for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bench.kind import COUNTED, UNCOUNTED
from bench.load import Figures, Shape
from bench.model import PHOTO, TINY
from bench.result import Cell, Result, Soak, Spread, answers_per_s, base_of, p50_ms

MAX_PROCESS_MIB = 180.0
MAX_GROWTH_RATIO = 1.03  # what "flat" means: from the end of the warm-up to the last request

_ONE, _BUSY, _MULTIPLEXED = Shape(connections=1), Shape(connections=64), Shape(connections=1, streams=64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """`measured` is None when it wasn't."""

    text: str
    bound: str
    measured: Spread | None
    met: bool | None


@dataclass(frozen=True, slots=True)
class _Ratio:
    text: str
    cell: Cell
    base: str  # a kind, or "" for what base_of says
    of: Callable[[Figures], float]
    side: Literal["at least", "at most"]
    bound: float


_RATIOS = (
    *(
        _Ratio(
            f"tiny model, HTTP JSON, 64 connections: answers/s over {title}",
            Cell(TINY, kind, _BUSY),
            base,
            answers_per_s,
            "at least",
            bound,
        )
        for kind, base, title, bound in (
            ("gateway-json", "triton-json", "Triton asked directly", 1.0),
            ("gateway-json", "mlserver", "MLServer", 8.0),
            ("gateway-json", "kserve", "KServe", 8.0),
            ("gateway-json", "mosec", "Mosec", 0.9),
            (COUNTED, UNCOUNTED, "a gateway that doesn't count", 0.95),
        )
    ),
    _Ratio(
        "tiny model, HTTP JSON, 1 connection: p50 over Triton asked directly",
        Cell(TINY, "gateway-json", _ONE),
        "triton-json",
        p50_ms,
        "at most",
        2.5,
    ),
    *(
        _Ratio(
            f"tiny model, gRPC, 64 in flight over {where}: answers/s over Triton asked directly",
            Cell(TINY, "gateway-grpc", shape),
            "triton-grpc",
            answers_per_s,
            "at least",
            0.7,
        )
        for shape, where in ((_BUSY, "64 connections"), (_MULTIPLEXED, "1 connection"))
    ),
    _Ratio(
        "JPEG predict, 64 connections: answers/s over decoding and ONNX Runtime in a loop",
        Cell(PHOTO, "gateway-predict", _BUSY),
        "",
        answers_per_s,
        "at least",
        0.9,
    ),
)


def targets(result: Result | None, soak: Soak | None) -> list[Target]:
    """Every target, measured or not."""
    return [*(_of_ratio(ratio, result) for ratio in _RATIOS), *_of_soak(soak)]


def _of_ratio(ratio: _Ratio, result: Result | None) -> Target:
    measured = None
    if result is not None:
        base = ratio.cell._replace(kind=ratio.base) if ratio.base else base_of(result, ratio.cell)
        measured = result.ratio(ratio.cell, base, ratio.of)
    met = None
    if measured is not None:
        met = measured.median >= ratio.bound if ratio.side == "at least" else measured.median <= ratio.bound
    return Target(text=ratio.text, bound=f"{ratio.side} {ratio.bound:g}", measured=measured, met=met)


def _of_soak(soak: Soak | None) -> list[Target]:
    size = growth = None
    if soak is not None:
        memory = [mib for _, mib in soak.samples]
        size = Spread.of(memory)
        growth = Spread.of([memory[-1] / memory[0]])
    return [
        Target(
            text="memory of a gateway process, MiB: the most that was seen",
            bound=f"under {MAX_PROCESS_MIB:g}",
            measured=size and Spread(size.high, size.low, size.high),
            met=None if size is None else size.high < MAX_PROCESS_MIB,
        ),
        Target(
            text="memory of a gateway process: after all requests over after the warm-up",
            bound=f"at most {MAX_GROWTH_RATIO:g}",
            measured=growth,
            met=None if growth is None else growth.median <= MAX_GROWTH_RATIO,
        ),
    ]
