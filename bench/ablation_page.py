"""The table and the picture of `python -m bench ablation`, in the middle of `docs/ablation.md`."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median, variance

from matplotlib.figure import Figure
from torch import nn

from bench.ablation import CONFIG, NUM_JUDGED, AblationResult, Row
from bench.choice import CHOICES, HIDDEN, WIDTHS
from bench.page import put, table
from training.loop import num_steps
from training.recipes.fashion_convolution import FASHION_VGG

PAGE, PICTURE = "ablation.md", "ablation.png"
COMMAND = "python -m bench ablation"
COLUMNS = ("choice", "", "accuracy, mean", "least to greatest", "against the first row", "log loss, mean", "CPU time")
LOGISTIC_ACCURACY = 0.8351  # on the test split, of logistic regression on 10,000 pictures: docs/recipes.md, fashion-vgg
_SHOWN = 0.08  # of accuracy below the first row: what is further down stands at the picture's edge


def write(result: AblationResult, docs: Path) -> None:
    """Put the figures between the page's two marks; raises ValueError when it has none."""
    draw(result, docs / PICTURE)
    put(docs / PAGE, COMMAND, markdown(result))


def markdown(result: AblationResult) -> str:
    """The table, what it was taken on, and what is too small to be anything."""
    machine = result.machine
    return "\n".join(
        [
            f"`{COMMAND}` on {machine.date}: {machine.processor}, {machine.num_cores} cores, {machine.system}.",
            f"{CONFIG.num_train:,} pictures, {CONFIG.epochs} passes, judged by {NUM_JUDGED:,} others; seeds "
            f"{', '.join(str(outcome.seed) for outcome in result.rows[0].outcomes)}.",
            f"The network isn't the recipe's: it has {', '.join(map(str, WIDTHS[:-1]))} and {WIDTHS[-1]} channels and "
            f"{HIDDEN} hidden units, {_size(CHOICES[0].recipe(1, CONFIG).network()):,} parameters where that of "
            f"`{FASHION_VGG.name}` has {_size(FASHION_VGG.network()):,}.",
            "Differences are in points of accuracy.",
            "",
            table(COLUMNS, rows(result)),
            "",
            f"Seeds alone make two means differ by up to {100 * noise(result.rows):.1f} points, 19 times out of 20.",
            *_beside_logistic(_base(result)),
            "",
            f"![accuracy by choice]({PICTURE})",
            "",
        ]
    )


def rows(result: AblationResult) -> list[tuple[str, ...]]:
    """Each variant in words, a topic named once."""
    base, before, lines = _base(result), "", []
    for row in result.rows:
        lines.append((row.topic if row.topic != before else "", row.name, *_figures(row, base)))
        before = row.topic
    return lines


def noise(every: Sequence[Row]) -> float:
    """What the difference of two rows' means stays below, 19 times out of 20, where only the seeds differ.

    All rows share one standard deviation, so that three seeds are enough. It is taken from the median of the rows'
    variances, of which a few wild ones change nothing: for k runs a variance's median is about (1 - 2 / (9 (k - 1)))^3
    of its mean (Wilson & Hilferty 1931). 0 where there is only one seed.
    """
    spread = [variance(values) for values in map(accuracies, every) if len(values) == len(every[0].outcomes) > 1]
    if not spread:
        return 0.0
    num = len(every[0].outcomes)
    typical = median(spread) / (1 - 2 / (9 * (num - 1))) ** 3
    return 1.96 * math.sqrt(2 * typical / num)


def accuracies(row: Row) -> list[float]:
    """Of the runs that didn't diverge."""
    return [outcome.accuracy for outcome in row.outcomes if outcome.accuracy is not None]


def draw(result: AblationResult, path: Path) -> None:
    """A line a variant, a dot a seed, a stroke at the mean; in the band is what seeds alone do."""
    figure = Figure(figsize=(7, 0.27 * len(result.rows) + 0.8), layout="constrained")
    axis = figure.subplots()
    base, edge = _base(result), -math.inf
    if base is not None:
        band, edge = noise(result.rows), base - _SHOWN
        axis.axvspan(base - band, base + band, color="#e5e7eb")
    for place, row in enumerate(result.rows):
        values = accuracies(row)
        if not values or mean(values) < edge:
            text = f"◂ {mean(values):.2f}" if values else "◂ diverged"
            at_edge = axis.get_yaxis_transform()
            axis.text(0.01, place, text, fontsize=7, va="center", color="#dc2626", transform=at_edge)
            continue
        axis.plot(values, [place] * len(values), "o", color="#60a5fa", markersize=4)
        axis.plot([mean(values)], [place], "|", color="#2563eb", markersize=10, markeredgewidth=2)
    axis.set_yticks(range(len(result.rows)), [f"{row.topic}: {row.name}" for row in result.rows], fontsize=7)
    axis.invert_yaxis()
    axis.tick_params(labelsize=7)
    axis.set_xlabel("accuracy: a dot a seed, a stroke their mean; grey: what seeds alone do", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _base(result: AblationResult) -> float | None:
    """What the others are held against; None where the first row lacks a seed that they have."""
    first = result.rows[0]
    values = accuracies(first)
    return mean(values) if len(values) == len(first.outcomes) else None


def _beside_logistic(base: float | None) -> list[str]:
    """How short these trainings are, by what they come to; nothing where the first row diverged."""
    if base is None:
        return []
    assert CONFIG.num_train is not None
    steps, _ = num_steps(CONFIG, CONFIG.num_train)
    return [
        f"After these {steps:,} steps the first row has {base:.4f}, and logistic regression on 10,000 pictures has "
        f"{LOGISTIC_ACCURACY} (on the test split, see [recipes](recipes.md)): what a choice costs or gains this early "
        "says little about a long training."
    ]


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _figures(row: Row, base: float | None) -> tuple[str, ...]:
    values = accuracies(row)
    if len(values) < len(row.outcomes):
        return (f"diverged with {len(row.outcomes) - len(values)} of {len(row.outcomes)} seeds", "", "", "", "")
    losses = [outcome.log_loss for outcome in row.outcomes if outcome.log_loss is not None]
    times = [outcome.cpu_s for outcome in row.outcomes if outcome.cpu_s is not None]
    return (
        f"{mean(values):.4f}",
        f"{min(values):.4f} to {max(values):.4f}",
        "" if base is None else f"{100 * (mean(values) - base):+.1f}",
        f"{mean(losses):.3f}",
        f"{mean(times):.0f} s",
    )
