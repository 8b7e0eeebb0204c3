"""Drift as arithmetic over counters: how far every feature is from its reference, and how surely, over three windows.

With N samples of current traffic and M of the reference, shares p and q of a bin, k bins that live (that the reference
or the traffic has), and h = (1/N + 1/M) * dispersion, these tests make one z-score each:

- chi2: the two-sample chi-square, sum of (p - q)^2 / pooled share / h, as a z-score (Wilson and Hilferty 1931). A bin
  where fewer than five independent requests are expected adds 4 (asin sqrt p - asin sqrt q)^2 / h instead: there a few
  sessions too many would look like a shift (Cochran 1954; Freeman and Tukey 1950);
- location and scale, for ordered features: sum of score * p / sqrt(h), with the scores of `reference`. One degree of
  freedom each, so they see a shift or a spread with fewer samples than the chi-square does;
- tail, for ordered features: 2 (asin sqrt p - asin sqrt q) / sqrt(h) of the cells beyond the 1 % and 99 % quantile.

`z` is the largest of them, in absolute value. A rate of unseen values (`other`, `missing`) has an arcsine score too.

How far, reported beside: with p and q smoothed by half a count in each bin, PSI = sum of (p - q) ln(p / q), the
symmetric Kullback-Leibler divergence. Without drift its expectation isn't 0 but about (k - 1) h, so a raw PSI of 0.2
means nothing at N = 100: the *unbiased* PSI has that much taken off. Jensen-Shannon distance (base 2); for ordered
features the Kolmogorov-Smirnov distance over bins, and the Wasserstein distance on ranks, where 0.1 means that values
have moved by a tenth of the reference on average.
Sources: Yurdakul, "Statistical Properties of Population Stability Index" (2018); Haldane (1956) for the half count.

Dispersion: requests come in sessions, so bin counts vary more than those of independent draws. How much more is
measured (monitoring.dispersion); somebody who knows better exports it as `inference_feature_dispersion`. Likewise a
feature whose traffic was seen to wander without harm can be given a higher floor by `inference_feature_drift_floor`.

The predicted labels are a feature like the others, named `prediction`; their counts come from
`inference_prediction_total`. Windows beyond an hour add up five-minute increases instead of reading every scrape again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from contract.profile import PREDICTION
from monitoring.reference import (
    ALL_SAMPLES,
    BIN,
    CDF,
    EACH,
    FEATURE,
    RATIO,
    SAMPLES,
    SCORE,
    TAIL_RATIO,
    UNSEEN,
    cumulative,
    reference_group,
)
from monitoring.rule import SLOW_INTERVAL_S, Group, Rule
from monitoring.statistic import ALARM_Z, arcsine, chi_square_z

MIN_SAMPLES = 200  # below these a value is noise: none is better than a frightening one
MIN_SAMPLES_PER_BIN = 10
MIN_EXPECTED = 5  # independent requests in a bin, for its square to be one of a chi-square

DISPERSION = "inference_feature_dispersion"
MEASURED_DISPERSION = "model_version_feature:inference_feature_bin:dispersion_increase7d"  # monitoring.dispersion's
FLOOR = "inference_feature_drift_floor"
FIVE_MINUTES = "model_version_feature_bin_tail:inference_feature_bin:increase5m"
_EXPORTED = "inference_feature_bin_total"
_LEVEL = "model_version_feature"


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """How far back traffic is compared, as PromQL writes it, and the unbiased PSI below which a shift is let be.

    A floor is a choice of effect size: over more samples a smaller shift is sure, and worth knowing.
    """

    range: str
    floor: float
    downsampled: bool = True

    @property
    def predictions(self) -> str:
        """Name of the recorded counts of predicted labels."""
        return f"model_version_label:inference_prediction:increase{self.range}"

    @property
    def count(self) -> str:
        """Name of the recorded counts of each bin that lives."""
        return f"{_LEVEL}_bin:inference_feature_bin:increase{self.range}"

    @property
    def unseen(self) -> str:
        """Name of the recorded counts of values in no bin of the shape."""
        return f"{_LEVEL}_bin:inference_feature_unseen:increase{self.range}"

    @property
    def unseen_z(self) -> str:
        """Name of the recorded scores of those values."""
        return f"{_LEVEL}_bin:inference_feature_unseen:z_increase{self.range}"

    def record(self, operation: str = "", level: str = _LEVEL) -> str:
        """Name of the recorded `operation` on a feature: psi, psi_unbiased, js, ks, w1, z, alarm_z, and their parts."""
        prefix = f"{operation}_" if operation else ""
        return f"{level}:inference_feature_bin:{prefix}increase{self.range}"


CHOSEN = Window(range="${window}", floor=0)  # of a board's variable
WINDOWS = (
    Window(range="1h", floor=0.025, downsampled=False),  # 0.16 sd: above a daily wave of 0.1 sd
    Window(range="6h", floor=0.02),
    Window(range="24h", floor=0.005),
)


def drift_groups(windows: Sequence[Window] = WINDOWS, interval_s: int = SLOW_INTERVAL_S) -> tuple[Group[Rule], ...]:
    """The rules of the reference and of each window; replicas add up, restarts are harmless.

    What is downsampled, and js, ks and w1, are evaluated every fifth time: read those by `last_over_time(...[11m])`.
    """
    short, long = ([window for window in windows if window.downsampled is kind] for kind in (False, True))
    groups = [reference_group(interval_s)]
    groups += [_group(f"drift_{window.range}", interval_s, _window(window)) for window in short]
    if long:
        rules = [_five_minutes(), *(rule for window in long for rule in _window(window))]
        groups.append(_group("drift_long", 5 * interval_s, rules))
    distances = [rule for window in windows for rule in _distances(window)]
    return *groups, _group("drift_distance", 5 * interval_s, distances)


def _group(name: str, interval_s: int, rules: Iterable[Rule]) -> Group[Rule]:
    return Group(name=name, interval_s=interval_s, rules=tuple(rules))


def _five_minutes() -> Rule:
    predictions = _as_bins("sum by (model, version, label) (increase(inference_prediction_total[5m]))")
    return Rule(record=FIVE_MINUTES, expr=f"sum by ({BIN}, tail) (increase({_EXPORTED}[5m]))\nor {predictions}")


def _as_bins(predictions: str) -> str:
    as_bin = f'label_replace({predictions}, "bin", "$1", "label", "(.*)")'
    return f'sum by ({BIN}) (label_replace({as_bin}, "feature", "{PREDICTION}", "", ""))'


def _window(window: Window) -> Iterator[Rule]:
    """All records of a window, each reading those before it."""
    if not window.downsampled:
        labels = f"sum by (model, version, label) (increase(inference_prediction_total[{window.range}]))"
        yield Rule(record=window.predictions, expr=labels)
    n, num, k, h = window.count, window.record(), window.record("num_bins"), window.record("variance")
    yield Rule(record=n, expr=f"({_counted(window)}) > 0\nand {RATIO}\nor ({RATIO} > 0) * 0")
    yield Rule(record=num, expr=f"sum by ({FEATURE}) ({n})")
    yield Rule(record=k, expr=f"count by ({FEATURE}) ({n})")
    yield Rule(record=h, expr=_variance(num, SAMPLES))

    p, q = _smoothed(window)
    psi = window.record("psi")
    yield Rule(record=psi, expr=_enough(window, f"sum by ({FEATURE}) (\n  ({p} - {q})\n  * ln({p} / {q})\n)"))
    yield Rule(record=window.record("psi_unbiased"), expr=f"{psi} - ({k} - 1) * {h}")
    yield from _tests(window)
    yield from _unseen(window)


def _distances(window: Window) -> Iterator[Rule]:
    """What people look at beside the PSI; no alert reads it."""
    n, num = window.count, window.record()
    yield Rule(record=window.record("js"), expr=_enough(window, _jensen_shannon(*_smoothed(window))))
    distance = window.record("cumulative_shift", f"{_LEVEL}_bin")
    yield Rule(record=distance, expr=f"({cumulative(n)})\n/ {EACH}({num} > 0) - {CDF}")
    yield Rule(record=window.record("ks"), expr=_enough(window, f"max by ({FEATURE}) (abs({distance}))"))
    yield Rule(record=window.record("w1"), expr=_enough(window, _wasserstein(distance, _shift(n, num))))


def _counted(window: Window, matcher: str = "") -> str:
    """Samples in every bin within the window, whether it lives or not, predicted labels among them."""
    if window.downsampled:
        return f"sum by ({BIN}) (sum_over_time({FIVE_MINUTES}{matcher}[{window.range}]))"
    features = f"sum by ({BIN}) (increase({_EXPORTED}{matcher}[{window.range}]))"
    return f"{features}\nor {_as_bins(window.predictions + matcher.replace('bin', 'label'))}"


def _variance(num: str, num_reference: str) -> str:
    dispersion = f"(clamp_min(max by ({FEATURE}) ({DISPERSION}), 1) or {MEASURED_DISPERSION} or {num} * 0 + 1)"
    return f"(1 / ({num} > 0) + 1 / {num_reference})\n* {dispersion}"


def _enough(window: Window, expr: str) -> str:
    num = window.record()
    return f"{expr}\nand ({num} >= {MIN_SAMPLES} and {num} >= {MIN_SAMPLES_PER_BIN} * {window.record('num_bins')})"


def _smoothed(window: Window) -> tuple[str, str]:
    """Shares of a bin now and in the reference, each with half a count more in every bin."""
    num, k = window.record(), window.record("num_bins")

    def share(count: str, total: str) -> str:
        return f"(({count} + 0.5) / {EACH}({total} + 0.5 * {k}))"

    return share(window.count, num), share(f"{RATIO} * {EACH}{SAMPLES}", SAMPLES)


def _shift(count: str, total: str) -> str:
    return f"({count} / {EACH}({total} > 0) - {RATIO})"


def _jensen_shannon(p: str, q: str) -> str:
    """Square root of the mean divergence of both from their mixture, in bits; in [0, 1]."""
    halves = "\n  + ".join(f"sum by ({FEATURE}) ({one} * log2(2 * {one} / ({p} + {q})))" for one in (p, q))
    return f"sqrt(clamp_min((\n  {halves}\n) / 2, 0))"


def _wasserstein(distance: str, shift: str) -> str:
    """Area between the cumulative shares over the ranks: a bin is as wide as its share of the reference."""
    return f"sum by ({FEATURE}) ({RATIO} * (abs({distance}) + abs({distance} - {shift})) / 2)"


def _tests(window: Window) -> Iterator[Rule]:
    n, num, k, h = window.count, window.record(), window.record("num_bins"), window.record("variance")
    z, tests = window.record("z"), window.record("z", f"{_LEVEL}_test")
    pooled = f"(({n} + {RATIO} * {EACH}{SAMPLES}) / {EACH}({num} + {SAMPLES}))"
    here, there = arcsine(n, num, EACH), arcsine(f"{RATIO} * {EACH}{SAMPLES}", SAMPLES, EACH)
    common = f"{_shift(n, num)} ^ 2 / ({pooled} >= {EACH}({MIN_EXPECTED} * {h}))"
    chi_square = f"sum by ({FEATURE}) (\n  {common}\n  or 4 * ({here} - {there}) ^ 2\n) / {h}"
    yield Rule(record=tests, expr=_enough(window, chi_square_z(chi_square, f"({k} - 1 > 0)")), labels={"test": "chi2"})

    share = f"on ({BIN}) group_left () ({n} / {EACH}({num} > 0))"
    score = f"sum by ({FEATURE}, test) ({SCORE} * {share})\n/ {EACH}sqrt({h})"
    enough = _enough(window, num)
    yield Rule(record=tests, expr=f"{score}\nand on ({FEATURE}) ({enough})")

    source, range_ = (FIVE_MINUTES, "sum_over_time") if window.downsampled else (_EXPORTED, "increase")
    tail = f'sum by ({FEATURE}) ({range_}({source}{{tail="1"}}[{window.range}]))'
    now, then = arcsine(tail, num), arcsine(f"{TAIL_RATIO} * {SAMPLES}", SAMPLES)
    yield Rule(record=tests, expr=_enough(window, f"2 * ({now} - {then}) / sqrt({h})"), labels={"test": "tail"})

    largest = f'abs({tests}{{test!="chi2"}}) or {tests}{{test="chi2"}}'
    yield Rule(record=z, expr=f"max by ({FEATURE}) ({largest})")
    yield Rule(record=window.record("alarm_z"), expr=_alarm(window, z, tests))


def _alarm(window: Window, z: str, tests: str) -> str:
    """`z` where it is surely beyond chance and far enough to matter, 0 elsewhere; the tails are their own floor."""
    psi = window.record("psi_unbiased")
    raised = f"clamp_min(max by ({FEATURE}) ({FLOOR}), {window.floor})"
    far = f"{psi} > ({raised} or {psi} * 0 + {window.floor})"
    tails = f'abs({tests}{{test="tail"}}) > {ALARM_Z}'
    return f"({z} > {ALARM_Z}\nand on ({FEATURE}) ({far}\nor on ({FEATURE}) {tails}))\nor {z} * 0"


def _unseen(window: Window) -> Iterator[Rule]:
    """Values in no bin that the reference has, as a share of all rows, those without a value included."""
    num, rows = window.record(), window.record("rows")
    yield Rule(record=window.unseen, expr=_counted(window, f'{{bin=~"{UNSEEN}"}}'))
    outside = f"sum by ({FEATURE}) ({window.unseen} unless {RATIO})"
    yield Rule(record=rows, expr=f"{num} + ({outside} or {num} * 0)")
    ratio = f'max by ({BIN}) (inference_feature_reference_ratio{{bin=~"{UNSEEN}"}})'
    now = arcsine(window.unseen, rows, EACH)
    then = arcsine(f"{ratio} * {EACH}{ALL_SAMPLES}", ALL_SAMPLES, EACH)
    score = f"2 * ({now} - {then})\n/ {EACH}sqrt({_variance(rows, ALL_SAMPLES)})"
    yield Rule(record=window.unseen_z, expr=f"({score})\nand on ({FEATURE}) {rows} >= {MIN_SAMPLES}")
