"""The table and the picture of `python -m bench recipes`, in the middle of `docs/recipes.md`."""

from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from bench.page import put, table
from bench.recipe import RecipeResult, RecipeRow

PAGE, PICTURE = "recipes.md", "recipes.png"
COMMAND = "python -m bench recipes"
COLUMNS = (
    "recipe", "model", "data", "parameters", "MFLOP", "training", "metrics (95 % interval)", "baseline", "ONNX",
    "engine", "p50",
)  # fmt: skip


def write(result: RecipeResult, docs: Path) -> None:
    """Put the figures between the page's two marks; raises ValueError when it has none."""
    draw(result.rows, docs / PICTURE)
    put(docs / PAGE, COMMAND, markdown(result))


def markdown(result: RecipeResult) -> str:
    """The table, what it was taken on, and what there is no row of."""
    machine = result.machine
    return "\n".join(
        [
            f"`{COMMAND}` on {machine.date}: {machine.processor}, {machine.num_cores} cores, {machine.system}.",
            f"Engines were built by {result.lane}.",
            "p50 is of single requests through gateway and Triton over gRPC, one after the other, in ONNX Runtime.",
            "The first metric is the one that the baselines are of; a baseline in bold reads better than the model.",
            "",
            table(COLUMNS, map(cells, result.rows)),
            "",
            f"![latency by operations]({PICTURE})",
            "",
            *(f"Not there: {name}: {reason}.\n" for name, reason in result.failures.items()),
        ]
    )


def cells(row: RecipeRow) -> tuple[str, ...]:
    """A row in words; a baseline that reads better than the model is bold."""
    first = row.metrics[0].value

    def baseline(name: str, value: float) -> str:
        said = f"{name} {_number(value)}"
        return f"**{said}**" if (value > first if row.larger_is_better else value < first) else said

    return (
        row.recipe,
        row.model,
        row.data,
        f"{row.num_parameters:,}",
        f"{row.flops_per_sample / 1e6:,.1f}",
        f"{row.training_time_s:.0f} s",
        "; ".join(
            f"{metric.name.replace('_', ' ')} {_number(metric.value)} ({_number(metric.low)} to {_number(metric.high)})"
            for metric in row.metrics
        ),
        ", ".join(baseline(*each) for each in row.baselines.items()) or "none",
        _size(row.graph_bytes),
        "none" if row.engine_bytes is None else _size(row.engine_bytes),
        "not measured" if row.latency_ms is None else f"{row.latency_ms:.1f} ms",
    )


def draw(rows: Iterable[RecipeRow], path: Path) -> None:
    """Latency against operations, both logarithmic: what a recipe costs to serve."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    for row in rows:
        if row.latency_ms is None or not row.flops_per_sample:
            continue
        at = (row.flops_per_sample / 1e6, row.latency_ms)
        axis.plot(*at, "o", color="#2563eb", markersize=4)
        axis.annotate(row.recipe, at, xytext=(4, 3), textcoords="offset points", fontsize=7)
    axis.set(xscale="log", yscale="log", xlabel="MFLOP a sample", ylabel="ms a request, through the gateway")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=120)


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1024:,.0f} KiB" if num_bytes < 1024**2 else f"{num_bytes / 1024**2:.1f} MiB"
