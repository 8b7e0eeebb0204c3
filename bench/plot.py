"""The picture in `docs/`: answers a second at the most connections, the gateway beside Triton and the peers."""

from pathlib import Path

from matplotlib.figure import Figure

from bench.kind import COUNTING, TITLES
from bench.result import Cell, Result, Spread, answers_per_s

_COLOURS = {"gateway": "#2563eb", "triton": "#76b900"}
_OTHERS = "#9ca3af"


def draw(result: Result, path: Path) -> bool:
    """Write the picture, a panel a model; False when nothing in the result can be compared in one."""
    panels = {model: _bars(result, model) for model in result.models()}
    panels = {model: bars for model, bars in panels.items() if len(bars) > 1}
    if not panels:
        return False
    heights = [len(bars) for bars in panels.values()]
    figure = Figure(figsize=(7, 0.26 * sum(heights) + 0.75 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axis, (model, bars) in zip(axes, panels.items(), strict=True):
        medians = [spread.median for spread in bars.values()]
        errors = [[s.median - s.low for s in bars.values()], [s.high - s.median for s in bars.values()]]
        colours = [_COLOURS.get(cell.kind.partition("-")[0], _OTHERS) for cell in bars]
        names = [TITLES[cell.kind] for cell in bars]
        axis.barh(names, medians, xerr=errors, color=colours, error_kw={"lw": 1, "capsize": 2})
        axis.bar_label(axis.containers[-1], [f" {median:,.0f}" for median in medians], fontsize=7)
        axis.invert_yaxis()
        axis.set_title(f"{model}, {max(cell.shape.in_flight for cell in bars)} in flight", loc="left", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlim(0, 1.15 * max(spread.high for spread in bars.values()))
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axes[-1].set_xlabel("answers a second: median of the rounds, least to greatest", fontsize=8)
    figure.savefig(path, dpi=120)
    return True


def _bars(result: Result, model: str) -> dict[Cell, Spread]:
    """Each kind at its most connections, one request at a time on each."""
    bars: dict[str, tuple[Cell, Spread]] = {}
    for cell in result.cells(model):  # by rising load: the last one stays
        spread = result.spread(cell, answers_per_s)
        if spread is not None and cell.shape.streams == 1 and cell.kind not in COUNTING:
            bars[cell.kind] = cell, spread
    order = list(TITLES)
    return dict(sorted(bars.values(), key=lambda bar: order.index(bar[0].kind)))
