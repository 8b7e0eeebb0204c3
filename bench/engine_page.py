"""The tables and the picture of `python -m bench engines`, in the middle of a page that people write."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.engine import EngineResult, EngineRow, LatencyRow
from bench.page import put, table
from bench.result import Spread

PAGE, PICTURE = "engines.md", "engines.png"
COMMAND = "python -m bench engines"
_COLOURS = {"torch, FP32": "#9ca3af", "ONNX Runtime, FP32": "#60a5fa", "ONNX Runtime, INT8": "#2563eb"}


def write(result: EngineResult, docs: Path) -> None:
    """Put the figures between the page's two marks; raises ValueError when it has none."""
    if result.latencies:
        draw(result.latencies, docs / PICTURE)
    put(docs / PAGE, COMMAND, markdown(result))


def markdown(result: EngineResult) -> str:
    """Both tables, what they were taken on, and what did not run."""
    machine = result.machine
    libraries = ", ".join(f"{name} {version}" for name, version in result.libraries.items())
    lines = [
        f"`{COMMAND}` on {machine.date}: {machine.processor}, {machine.num_cores} cores, {machine.system};",
        f"{libraries}.",
        f"Engines were built by {result.lane}.",
        "No engine ran: there is no GPU here. Error and metric are the graph's, in ONNX Runtime on the test split."
        if all(row.engine_error is None for row in result.engines)
        else "Each engine ran beside its graph on the golden samples.",
        "",
        table(
            ("recipe", "precision", "largest error", "metric", "target", "build", "size"),
            (_engine_cells(row) for row in result.engines),
        ),
        "",
        *_refusals(result.engines),
        f"Milliseconds a call on the CPU, {machine.num_cores} threads: median of the rounds, least and greatest."
        if result.latencies
        else "Latencies weren't measured in this run.",
        "",
        *_latency_tables(result.latencies),
        *([f"![latency]({PICTURE})", ""] if result.latencies else []),
        *(f"Not measured: {name}: {reason}.\n" for name, reason in result.failures.items()),
    ]
    return "\n".join(lines)


def draw(rows: Sequence[LatencyRow], path: Path) -> None:
    """A panel a recipe: milliseconds a sample by batch size."""
    recipes = list(dict.fromkeys(row.recipe for row in rows))
    figure = Figure(figsize=(7, 2.4 * len(recipes)), layout="constrained")
    for axis, recipe in zip(figure.subplots(len(recipes), squeeze=False)[:, 0], recipes, strict=True):
        own = [row for row in rows if row.recipe == recipe]
        batches = sorted({row.batch for row in own})
        for index, (runtime, colour) in enumerate(_COLOURS.items()):
            chosen = [next(row for row in own if (row.runtime, row.batch) == (runtime, batch)) for batch in batches]
            medians = [row.spread.median / row.batch for row in chosen]
            low = [m - row.spread.low / row.batch for m, row in zip(medians, chosen, strict=True)]
            high = [row.spread.high / row.batch - m for m, row in zip(medians, chosen, strict=True)]
            places = [place + 0.26 * (index - 1) for place in range(len(batches))]
            bars = axis.bar(places, medians, 0.24, yerr=[low, high], color=colour, label=runtime, error_kw={"lw": 1})
            axis.bar_label(bars, [f"{value:.2g}" for value in medians], fontsize=7, padding=2)
        axis.set_xticks(range(len(batches)), [f"batch {batch}" for batch in batches], fontsize=8)
        axis.set_ylabel("ms a sample", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_title(recipe, loc="left", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=120)


def _engine_cells(row: EngineRow) -> tuple[str, ...]:
    facts = (row.recipe, row.form, f"{row.max_error:.1e}", f"{row.metric} {row.metric_value:.4f}", row.target)
    if row.refusal:
        return (*facts, "refused", "")
    build = f"{row.build_time_s:.2f} s" if row.build_time_s else "none: the graph itself"
    return (*facts, build, f"{row.size_bytes / 1024:,.0f} KiB")


def _refusals(rows: Sequence[EngineRow]) -> Iterable[str]:
    """Each reason once, with what it refused."""
    for reason in dict.fromkeys(row.refusal for row in rows if row.refusal):
        refused = ", ".join(f"{row.recipe} {row.form} for {row.target}" for row in rows if row.refusal == reason)
        yield f"Refused: {refused}: {reason}.\n"


def _latency_tables(rows: Sequence[LatencyRow]) -> Iterable[str]:
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = [row for row in rows if row.recipe == recipe]
        batches = sorted({row.batch for row in own})
        cells = {(row.runtime, row.batch): row.spread for row in own}
        runtimes = dict.fromkeys(row.runtime for row in own)
        yield table(
            (recipe, *(f"batch {batch}" for batch in batches)),
            (
                (
                    runtime,
                    *(f"{s.median:.2f} ({s.low:.2f} to {s.high:.2f})" for s in (cells[runtime, b] for b in batches)),
                )
                for runtime in runtimes
            ),
        )
        yield ""


def _shown(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"
