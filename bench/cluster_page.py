"""The tables and the picture of `python -m bench cluster`, in the middle of `docs/scaling.md`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bench.cluster import NUM, ClusterResult, Phase, seconds
from bench.many import ManyRow, Watched
from bench.page import put, table

PAGE, PICTURE = "scaling.md", "scaling.png"
COMMAND = "python -m bench cluster"
COLUMNS = ("phase", "requests", "failed", "p50", "p99", "slowest", "answered by Triton 1, 2, 3", "well again after")
WATCHED_COLUMNS = ("models", "scraped", "series with those of rules", "a round of rules", "cores for rules", "memory")
MANY_COLUMNS = ("models", "series", "a scrape", "it takes", "first look", "a look without changes", "memory")


def write(result: ClusterResult, many: Sequence[ManyRow], watched: Sequence[Watched], docs: Path) -> None:
    """Put the figures between the page's two marks; raises ValueError when it has none."""
    draw(result, docs / PICTURE)
    machine = result.machine
    lines = [
        f"`{COMMAND}` on {machine.date}: {machine.processor}, {machine.num_cores} cores, {machine.system}.",
        "",
        f"{NUM} gateways and {NUM} Tritons, {result.rate:g} requests/s in all, each Triton harmed in its turn:",
        "",
        table(COLUMNS, [cells(result, phase) for phase in result.phases]),
        "",
        f"![latency and failures by the second]({PICTURE})",
        "",
        "One gateway process by the number of models it serves:",
        "",
        table(MANY_COLUMNS, map(many_cells, many)),
        "",
        "A Prometheus with all rules that scrapes it:",
        "",
        table(WATCHED_COLUMNS, map(watched_cells, watched)),
        "",
    ]
    put(docs / PAGE, COMMAND, "\n".join(lines))


def cells(result: ClusterResult, phase: Phase) -> tuple[str, ...]:
    """A phase in words."""
    samples = result.of(phase)
    took = np.array([each.took_ms for each in samples])
    failed = sum(each.status != 200 for each in samples)
    total = max(1, sum(phase.answered))
    again = result.recovered_after_s(phase)
    return (
        phase.name,
        f"{len(samples):,}",
        f"{failed} ({failed / max(1, len(samples)):.2%})",
        f"{np.percentile(took, 50):.1f} ms",
        f"{np.percentile(took, 99):.1f} ms",
        f"{took.max():.0f} ms",
        ", ".join(f"{count / total:.0%}" for count in phase.answered),
        "not in this phase" if again is None else f"{again:.0f} s",
    )


def many_cells(row: ManyRow) -> tuple[str, ...]:
    """A number of models in words."""
    return (
        f"{row.num_models:,}",
        f"{row.num_series:,}",
        f"{row.scrape_bytes / 2**20:.1f} MiB",
        f"{1000 * row.scrape_s:,.0f} ms",
        f"{row.first_look_s:.2f} s",
        f"{1000 * row.look_s:,.1f} ms",
        f"{row.memory_mib:,.0f} MiB",
    )


def watched_cells(row: Watched) -> tuple[str, ...]:
    """A Prometheus in words."""
    return (
        f"{row.num_models:,}",
        f"{row.num_scraped:,}",
        f"{row.num_head_series:,}",
        f"{row.rules_s:.2f} s",
        f"{row.rules_cores:.3f}",
        f"{row.memory_mib:,.0f} MiB",
    )


def draw(result: ClusterResult, path: Path) -> None:
    """p50 and p99 by the second, logarithmic, and the requests that failed; phases in bands."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    at, rows = zip(*seconds(result), strict=True)
    for share, colour in ((50, "#2563eb"), (99, "#f59e0b")):
        above.plot(
            at,
            [np.percentile([s.took_ms for s in row], share) for row in rows],
            color=colour,
            lw=1.2,
            label=f"p{share}",
        )
    below.bar(at, [sum(each.status != 200 for each in row) for row in rows], 1.0, color="#dc2626")
    for index, phase in enumerate(result.phases):
        for axis in (above, below):
            axis.axvspan(phase.began_s, phase.ended_s, color="#9ca3af" if index % 2 else "white", alpha=0.2, lw=0)
        middle = (phase.began_s + phase.ended_s) / 2
        above.text(middle, 1.01, phase.name, transform=above.get_xaxis_transform(), ha="center", fontsize=7)
    above.set(yscale="log", ylabel="ms")
    above.legend(fontsize=7, frameon=False, loc="upper left")
    below.set(xlabel="seconds", ylabel="failed a second")
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=120)
