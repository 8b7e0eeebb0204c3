"""What was measured, for people: the tables of `docs/drift.md` between its two marks, and the picture beside it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bench.drift.measure import FAST_WAY, FLOORLESS_WAY, WINDOWS_WAY
from bench.drift.result import Alarms, Costs, Delay, Evaluation, Look

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PICTURE = "drift.png"
_COLOURS = {WINDOWS_WAY: "#2563eb", FAST_WAY: "#16a34a", FLOORLESS_WAY: "#86efac"}


def write_page(evaluation: Evaluation, docs: Path) -> None:
    """Put the tables between the marks of the page; the words around them stay."""
    page = docs / "drift.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    drawn = draw(evaluation, docs / PICTURE)
    page.write_text(f"{before}{BEGIN}\n{markdown(evaluation, drawn)}\n{END}{after}", encoding="utf-8")


def markdown(evaluation: Evaluation, drawn: bool = False) -> str:
    """The tables."""
    parts = []
    if evaluation.alarms:
        columns = ("traffic", "way", "alarms a month", "95 %", "months")
        parts.append(
            f"### False alarms a month of a model with 30 features\n\n{_table(columns, _alarm_rows(evaluation.alarms))}"
        )
    if evaluation.delays:
        ways = list(dict.fromkeys(delay.way for delay in evaluation.delays))
        rows = _delay_rows(evaluation.delays, ways)
        parts.append(f"### Samples from a shift to the alarm, median\n\n{_table(('rate', 'shift', *ways), rows)}")
    if drawn:
        parts.append(f"![Samples from a shift to the alarm, at 100 a minute]({PICTURE})")
    if evaluation.looks:
        ways = list(dict.fromkeys(f"{look.way} {look.version}".strip() for look in evaluation.looks))
        title = "### Share of looks at 600 samples that flag anything, and in brackets what has shifted"
        parts.append(f"{title}\n\n{_table(('data', *ways), _look_rows(evaluation.looks, ways))}")
    if evaluation.costs is not None:
        parts.append(
            f"### What it costs, for 30 features\n\n{_table(('what', 'measured'), _cost_rows(evaluation.costs))}"
        )
    if evaluation.failures:
        parts.append("Not measured: " + "; ".join(evaluation.failures) + ".")
    return "\n\n".join(parts)


def draw(evaluation: Evaluation, path: Path, rate: float = 100.0) -> bool:
    """Write the picture; False when there is nothing to draw."""
    shown = [delay for delay in evaluation.delays if delay.rate == rate]
    if not shown:
        return False
    shifts = list(dict.fromkeys(delay.shift for delay in shown))
    ways = [way for way in _COLOURS if any(delay.way == way for delay in shown)]
    figure = Figure(figsize=(7, 0.6 * len(shifts) + 1), layout="constrained")
    axis = figure.subplots()
    for number, way in enumerate(ways):
        medians = [_median_of(next(d for d in shown if d.way == way and d.shift == shift)) for shift in shifts]
        places = np.arange(len(shifts)) + (number - 1) * 0.27
        found = np.isfinite(medians)
        axis.barh(places[found], np.array(medians)[found], 0.25, label=way, color=_COLOURS.get(way))
    axis.set_yticks(range(len(shifts)), shifts)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlim(left=100)
    axis.set_xlabel(f"samples to the alarm at {rate:g} a minute, median; no bar: mostly none in 30 h", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    return True


def _alarm_rows(alarms: Sequence[Alarms]) -> Iterator[tuple[str, ...]]:
    for one in alarms:
        yield one.traffic, one.way, f"{one.per_month:,g}", _interval(one.alarms, one.months), f"{one.months:g}"


def _delay_rows(delays: Sequence[Delay], ways: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """A row a shift; a median of which some repetitions weren't found says how many were."""
    known = {(delay.rate, delay.shift, delay.way): delay for delay in delays}
    for rate, shift in dict.fromkeys((delay.rate, delay.shift) for delay in delays):
        cells = (known.get((rate, shift, way)) for way in ways)
        yield f"{rate:g}/min", shift, *("" if cell is None else _median(cell) for cell in cells)


def _look_rows(looks: Sequence[Look], ways: Sequence[str]) -> Iterator[tuple[str, ...]]:
    known = {(look.data, f"{look.way} {look.version}".strip()): look for look in looks}
    for data, note in dict.fromkeys((look.data, look.note) for look in looks):
        cells = (known.get((data, way)) for way in ways)
        yield f"{data} ({note})" if note else data, *("" if cell is None else _share(cell) for cell in cells)
    for title, kind in (("looks, least and most", "looks"), ("seconds a look", "seconds_a_look")):
        spans = ([getattr(look, kind) for (_, way), look in known.items() if way == one] for one in ways)
        yield title, *(f"{min(span):.2g} to {max(span):.2g}" for span in spans)


def _share(look: Look) -> str:
    found = "" if look.found is None else f" ({look.found / look.looks:.0%})"
    return f"{look.flagged / look.looks:.0%}{found}"


def _cost_rows(costs: Costs) -> Iterator[tuple[str, ...]]:
    yield "counting, a request (batches of 32)", f"{costs.counting_us:.1f} µs"
    yield "the same with `TIDEGATE_EXAMPLES=inputs`", f"{costs.with_examples_us:.1f} µs"
    yield "making a scrape's series", f"{costs.scrape_ms:.1f} ms"
    yield "most series of a feature", str(costs.most_series)
    yield "the fast lane's start, reading a day of one replica", f"{costs.lane_start_s:.1f} s"
    yield "the fast lane's every minute", f"{costs.lane_minute_ms:.0f} ms"


def _interval(events: int, months: float) -> str:
    """Exact bounds of a Poisson rate; Garwood, "Fiducial limits for the Poisson distribution" (1936)."""
    from scipy.stats import chi2

    low = chi2.ppf(0.025, 2 * events) / 2 if events else 0.0
    bounds = (low / months, chi2.ppf(0.975, 2 * events + 2) / 2 / months)
    return " to ".join(f"{bound:,.0f}" if bound >= 10 else f"{bound:.2g}" for bound in bounds)


def _num_found(delay: Delay) -> int:
    return sum(one is not None for one in delay.samples)


def _median_of(delay: Delay) -> float:
    """Over all repetitions: infinite when half of them or more didn't come."""
    return float(np.median([np.inf if one is None else one for one in delay.samples]))


def _median(delay: Delay) -> str:
    median, num = _median_of(delay), _num_found(delay)
    text = f"{median:,.0f}" if np.isfinite(median) else f"over {delay.limit:,.0f}"
    return text if num == len(delay.samples) else f"{text} ({num} of {len(delay.samples)} found)"


def _table(columns: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
