"""The report's figures, drawn once by matplotlib for two uses.

As SVG inside the page every colour becomes a CSS variable and every text stays text, so a figure follows the reader's
dark or light theme and can be searched and read aloud. As PNG it keeps the light colours.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from training.report.judgement import ConfidenceBin

# One palette for page and figures. Blue and orange differ for every kind of colour vision (Okabe & Ito 2008), and
# each text colour keeps a contrast of at least 4.5 on its ground (WCAG 2.2, 1.4.3).
LIGHT = {
    "ground": "#ffffff", "panel": "#f5f6f8", "line": "#d5d9df", "ink": "#1b1f24", "muted": "#5c6570",
    "first": "#0a62c4", "second": "#b5500a", "good": "#1a7438", "bad": "#b3261e",
}  # fmt: skip
DARK = {
    "ground": "#14171b", "panel": "#1d2126", "line": "#3a414a", "ink": "#e8eaed", "muted": "#a0a9b4",
    "first": "#74b0ff", "second": "#f5a05c", "good": "#6ccb88", "bad": "#ff8a80",
}  # fmt: skip

Draw = Callable[[Axes], None]

_SIZE_IN = (4.6, 3.0)  # small, so that its text is still legible at the width of a phone
_PNG_DPI = 160
_MAX_STRETCHES = 400
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tidegate",
    "font.size": 9,
    "text.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["line"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "xtick.color": LIGHT["line"],
    "ytick.color": LIGHT["line"],
    "xtick.labelcolor": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["muted"],
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def svg(name: str, draw: Draw) -> Markup:
    """An `<svg>` element for a page that defines the palette's CSS variables; `name` keeps its ids apart."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        _figure((draw,)).savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for variable, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r'\bid="|url\(#|href="#', lambda found: f"{found.group()}{name}-", text)
    text = re.sub(r"<style.*?</style>|font-family: [^;\"]*;", "", text, flags=re.DOTALL)  # the page has its own
    # Its size is the page's to choose, by its view box.
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg xmlns="http://www.w3.org/2000/svg" \1>', text, count=1)
    return Markup(text)  # noqa: S704 - matplotlib escapes the texts in it


def png(*draws: Draw) -> bytes:
    """A PNG file on white, the drawings side by side."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        _figure(draws).savefig(buffer, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def curve(title: str, train: Sequence[float], validation: Sequence[float], best: int) -> Draw:
    """A quantity by epoch, training and validation; a ring marks the epoch that was `best`, counted from 0."""

    def draw(axes: Axes) -> None:
        epoch = np.arange(1, len(train) + 1)
        axes.plot(epoch, train, color=LIGHT["second"], label="training", linestyle="--")
        axes.plot(epoch, validation, color=LIGHT["first"], label="validation", marker=".")
        axes.plot(best + 1, validation[best], "o", color=LIGHT["first"], fillstyle="none", markersize=10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.legend()

    return draw


def by_step(title: str, steps: Sequence[float], values: Sequence[float], *, log: bool = False) -> Draw:
    """A quantity by step: a line through the means of up to 400 stretches, and a band from their lowest to highest."""

    def draw(axes: Axes) -> None:
        parts = [part for part in np.array_split(np.array([steps, values]), _MAX_STRETCHES, axis=1) if part.size]
        at, mean = np.array([part.mean(axis=1) for part in parts]).T
        low, high = [part[1].min() for part in parts], [part[1].max() for part in parts]
        axes.fill_between(at, low, high, color=LIGHT["second"], alpha=0.25, linewidth=0)
        axes.plot(at, mean, color=LIGHT["second"])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if log and min(low) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(title)
        axes.set_xlabel("step")

    return draw


def reliability(bins: Sequence[ConfidenceBin]) -> Draw:
    """Accuracy by confidence with its 95 % interval; a point's area shows how many answers it stands for."""

    def draw(axes: Axes) -> None:
        confidence = np.array([b.confidence for b in bins])
        accuracy = np.array([b.accuracy.value for b in bins])
        low, high = np.array([b.accuracy.low for b in bins]), np.array([b.accuracy.high for b in bins])
        count = np.array([b.accuracy.num_samples for b in bins])
        axes.plot([0, 1], [0, 1], color=LIGHT["muted"], linestyle=":", linewidth=1, label="as sure as it is right")
        axes.errorbar(
            confidence,
            accuracy,
            np.maximum(0, np.array([accuracy - low, high - accuracy])),
            color=LIGHT["first"],
            fmt="none",
            linewidth=1.4,
        )
        axes.scatter(confidence, accuracy, 12 + 160 * count / count.sum(), color=LIGHT["first"], zorder=3)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence of the answer")
        axes.set_title("How often it was right")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1))
        axes.legend(loc="upper left")

    return draw


def against(truth_N: NDArray[np.float64], answer_N: NDArray[np.float64], unit: str) -> Draw:
    """Answers by truth, one point a sample; on the dotted line they are equal."""

    def draw(axes: Axes) -> None:
        both = np.concatenate((truth_N, answer_N))
        ends = [both.min(), both.max()]
        axes.plot(ends, ends, color=LIGHT["muted"], linestyle=":", linewidth=1)
        axes.scatter(truth_N, answer_N, 5, color=LIGHT["first"], alpha=0.5, linewidths=0)
        axes.set_title("Answer by truth")
        axes.set_xlabel(f"truth {unit}".strip())

    return draw


def _figure(draws: Sequence[Draw]) -> Figure:
    num_columns = min(2, len(draws))
    num_rows = -(-len(draws) // num_columns)
    width, height = _SIZE_IN
    figure = Figure(figsize=(width * num_columns, height * num_rows), layout="constrained")
    all_axes = figure.subplots(num_rows, num_columns, squeeze=False).flat
    for axes, draw in zip(all_axes, draws, strict=True):
        draw(axes)
    return figure
