"""What was measured, for people: `docs/bench.md`."""

from collections.abc import Iterator

from bench.kind import TITLES
from bench.machine import Machine
from bench.model import FASHION, PHOTO, TINY
from bench.result import Cell, Failure, Result, Soak, Spread, answers_per_s, base_of, p50_ms, p99_ms
from bench.target import Target, targets

MODEL_TITLES = {
    TINY: "The tiny model: 16 numbers in, 4 out, one matrix product",
    FASHION: "Fashion-MNIST: 28 x 28 pixels in, a small residual network",
    PHOTO: "Photographs: JPEG files of 640 x 480 in, 64 x 64 pixels into a small convolutional network",
}

_HEAD = """\
# Measured

Written by the benchmark; don't edit. Everything runs on one machine, the load generator included: figures of different
machines can't be compared, ratios within this page can. A ratio is taken within each round, where the two were measured
moments apart; shown are the median over the rounds and, in brackets, the least and the greatest.
"""
_HOW = """\
## How

- Load: `wrk` for HTTP and `h2load` for gRPC, one thread each, in a closed loop: a connection asks again as soon as it
  was answered. `64` in flight are 64 connections; `1 x 64` are 64 requests at a time on one connection. They share the
  cores with the servers. Any answer that is not a 2xx voids the figures.
- Every way of asking is checked once by a client that reads the answer, and must give the scores that ONNX Runtime
  gives. For Triton and the gateway the samples that Triton says it inferred must agree with the answers counted.
- Ratios are to Triton asked directly in the same way (JSON, binary, gRPC) under the same load; what has no such
  counterpart, the peers and predict included, is compared with Triton's HTTP JSON. For photographs they are to the
  better of two loops that decode and run the model in one process, without any server.
- What counting costs is asked apart, in many short turns of the gateway and of one that doesn't count: it is less than
  what the machine does from one second to the next.
- All servers load the same ONNX file on the CPU, one thread a run for the peers; Triton's backend uses the cores there
  are. All of a model's servers run throughout, and only one is asked at a time.
"""


def markdown(result: Result | None, soak: Soak | None, plot: str | None) -> str:
    """The whole page; `plot` is the name of the picture beside it."""
    parts = [_HEAD]
    if result is not None:
        parts += [_taken(result.machine, result.command), _options(result)]
    parts.append("## Targets\n\n" + _target_table(targets(result, soak)))
    if result is not None:
        if plot is not None:
            parts.append(f"![Answers a second at the most connections]({plot})\n")
        parts += [f"## {MODEL_TITLES[model]}\n\n{_model_table(result, model)}" for model in result.models()]
        if result.failures:
            parts.append("## Not measured\n\n" + _failures(result.failures))
        if result.peers:
            parts.append("## How the peers were set up\n\n" + _peer_table(result))
        if result.memory_mib:
            parts.append("## Memory after the rounds\n\n" + _memory_table(result.memory_mib))
    if soak is not None:
        parts.append("## Memory over many requests\n\n" + _soak(soak))
    return "\n".join([*parts, _HOW])


def model_rows(result: Result, model: str) -> Iterator[tuple[str, ...]]:
    """Load, kind, p50, p99, answers/s and ratio of every cell of a model."""
    for cell in result.cells(model):
        base = base_of(result, cell)
        yield (
            "-" if cell.kind.startswith("loop-") else str(cell.shape),
            TITLES[cell.kind],
            _median(result, cell, "p50"),
            _median(result, cell, "p99"),
            _median(result, cell, "answers"),
            "1" if cell == base else show(result.ratio(cell, base, answers_per_s)),
        )


MODEL_COLUMNS = ("in flight", "", "p50 ms", "p99 ms", "answers/s", "ratio")


def target_rows(found: list[Target]) -> Iterator[tuple[str, ...]]:
    """Text, bound, what was measured and whether that is enough."""
    for target in found:
        met = {True: "yes", False: "no", None: "not measured"}[target.met]
        yield (target.text, target.bound, show(target.measured), met)


TARGET_COLUMNS = ("target", "wanted", "measured", "met")


def show(spread: Spread | None) -> str:
    """Median, least and greatest, in few digits."""
    if spread is None:
        return "-"
    median, low, high = (f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in spread)
    return median if low == high else f"{median} ({low} to {high})"


def failure_lines(failures: tuple[Failure, ...]) -> list[str]:
    """One sentence for each reason, the loads that it holds for put together."""
    loads: dict[tuple[str, str, str], list[str]] = {}
    for failure in failures:
        loads.setdefault((failure.model, failure.kind, failure.reason), []).append(failure.load)
    return [
        f"{model}{', ' + TITLES[kind] if kind else ''}{_loads(in_flight)}: {reason}"
        for (model, kind, reason), in_flight in loads.items()
    ]


def _loads(in_flight: list[str]) -> str:
    named = [load for load in in_flight if load]
    return f" ({', '.join(named)} in flight)" if named else ""


def _median(result: Result, cell: Cell, what: str) -> str:
    of = {"p50": p50_ms, "p99": p99_ms, "answers": answers_per_s}[what]
    spread = result.spread(cell, of)
    if spread is None:
        return "-"
    return f"{spread.median:,.0f}" if what == "answers" else f"{spread.median:.2f}"


def _taken(machine: Machine, command: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"- taken on {machine.date} by `{command}`\n"
        f"- {machine.processor}, {machine.num_cores} cores, {machine.memory_gib} GiB; {machine.system}\n"
        f"- {versions}"
    )


def _options(result: Result) -> str:
    processes = f"{result.num_processes} gateway process{'' if result.num_processes == 1 else 'es'}"
    return f"- {result.rounds} rounds of {result.seconds} s each; {processes}\n"


def _target_table(found: list[Target]) -> str:
    return _table(TARGET_COLUMNS, target_rows(found))


def _model_table(result: Result, model: str) -> str:
    return _table(MODEL_COLUMNS, model_rows(result, model), "--rrrr")


def _peer_table(result: Result) -> str:
    rows = (
        (TITLES[p.kind], ", ".join(f"{n} {v}" for n, v in p.versions.items()) or "not installed", p.settings)
        for p in result.peers
    )
    return _table(("peer", "versions", "settings"), rows)


def _memory_table(memory: dict[str, float]) -> str:
    return _table(("processes", "resident MiB"), ((name, f"{mib:.0f}") for name, mib in memory.items()), "-r")


def _failures(failures: tuple[Failure, ...]) -> str:
    return "".join(f"- {line}\n" for line in failure_lines(failures))


def _soak(soak: Soak) -> str:
    rows = ((f"{num:,}", f"{mib:.1f}") for num, mib in soak.samples)
    return (
        f"- taken on {soak.machine.date} by `{soak.command}`: HTTP JSON to the tiny model over {soak.connections} "
        f"connections\n- resident memory of the largest of {soak.num_processes} gateway process(es)\n\n"
        + _table(("requests since the warm-up", "MiB"), rows, "rr")
    )


def _table(columns: tuple[str, ...], rows: Iterator[tuple[str, ...]], align: str = "") -> str:
    rule = "|".join("--:" if side == "r" else "---" for side in align.ljust(len(columns), "-"))
    lines = ["| " + " | ".join(columns) + " |", f"|{rule}|", *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines) + "\n"
