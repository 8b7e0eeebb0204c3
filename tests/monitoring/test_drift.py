"""Drift as Prometheus computes it, held against numpy and scipy on the same counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from scipy.stats import chi2_contingency, wasserstein_distance

from contract.profile import Feature, categorical_feature, ordered_feature
from monitoring.drift import WINDOWS, Window

HOUR = WINDOWS[0]
LEVEL = "model_version_feature:inference_feature_bin"
MINUTES = 90  # series are an hour of samples and then some
AT_MINUTES = 80

Counts = Mapping[tuple[str, bool], float]  # bin and whether it is a tail cell, to samples an hour
Hold = Callable[..., None]
Checks = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A feature's reference and, for each replica, the samples an hour it counted in each cell."""

    feature: str
    ratios: Mapping[tuple[str, bool], float]
    num_reference: int
    replicas: Sequence[Counts]
    restarts: Sequence[int] = ()  # minute at which each replica starts again from 0
    minutes: int = MINUTES
    step: int = 1
    extra: list[dict[str, str]] = field(default_factory=list)

    def series(self) -> list[dict[str, str]]:
        rows = list(self.extra)
        for index, counts in enumerate(self.replicas):
            restart = self.restarts[index] if index < len(self.restarts) else 0
            for cell, ratio in self.ratios.items():
                labels = _labels(self.feature, cell, f"replica{index}")
                rows.append(
                    _row(f"inference_feature_reference_ratio{labels}", f"{ratio!r}x{self.minutes // self.step}")
                )
            for cell, count in counts.items():
                labels = _labels(self.feature, cell, f"replica{index}")
                rows.append(
                    _row(f"inference_feature_bin_total{labels}", _counter(count, restart, self.minutes, self.step))
                )
            labels = f'{{model="m", version="1", feature="{self.feature}", instance="replica{index}"}}'
            samples = f"{self.num_reference}x{self.minutes // self.step}"
            rows.append(_row(f"inference_feature_reference_samples{labels}", samples))
        return rows

    def counts(self, *, tail: bool = False) -> dict[str, float]:
        """Samples in each bin over all replicas, without `missing`; of the tail cells alone if asked."""
        total = {cell[0]: 0.0 for cell in self.ratios if cell[0] != "missing"}
        for counts in self.replicas:
            for (name, is_tail), count in counts.items():
                if name != "missing" and (is_tail or not tail):
                    total[name] += count
        return total


def expected(reference: Sequence[float], counts: Sequence[float], dispersion: float = 1) -> dict[str, float]:
    """What any feature has, from two lists of counts, bin by bin."""
    m, n = np.asarray(reference), np.asarray(counts)
    lives = (m > 0) | (n > 0)
    m, n = m[lives], n[lives]
    p, q = ((x + 0.5) / (x + 0.5).sum() for x in (n, m))
    h, k = (1 / n.sum() + 1 / m.sum()) * dispersion, len(n)
    psi = float(rel_entr(p, q).sum() + rel_entr(q, p).sum())  # the Jeffreys divergence
    values = {
        "": float(n.sum()),
        "variance": h,
        "psi": psi,
        "psi_unbiased": psi - (k - 1) * h,
        "js": float(jensenshannon(p, q, base=2)),
    }
    if k > 1:
        chi_square = _chi_square(n, m, h)
        values["chi2"] = ((chi_square / (k - 1)) ** (1 / 3) - (1 - 2 / (9 * (k - 1)))) / (2 / (9 * (k - 1))) ** 0.5
    return values


def _chi_square(n: NDArray[np.float64], m: NDArray[np.float64], h: float) -> float:
    """scipy's where every bin is well filled; elsewhere bin by bin."""
    pooled = (n + m) / (n.sum() + m.sum())
    p, q = n / n.sum(), m / m.sum()
    rare = pooled / h < 5
    if not rare.any():
        dispersion = h / (1 / n.sum() + 1 / m.sum())
        return float(chi2_contingency(np.stack([n, m]), correction=False).statistic / dispersion)
    now, then = (np.arcsin(np.sqrt((x + 0.375) / (x.sum() + 0.75))) for x in (n, m))
    return float(np.where(rare, 4 * (now - then) ** 2, (p - q) ** 2 / pooled).sum() / h)


def expected_ordered(
    reference: Sequence[float], counts: Sequence[float], tails: tuple[float, float], dispersion: float = 1
) -> dict[str, float]:
    """And what an ordered feature has besides; `tails` are the samples in the tail cells, reference and now."""
    values = expected(reference, counts, dispersion)
    m, n = np.asarray(reference), np.asarray(counts)
    p, q = n / n.sum(), m / m.sum()
    middle = np.cumsum(q) - q / 2
    spread = values["variance"] ** 0.5
    for name, raw in (("location", middle), ("scale", (middle - 0.5) ** 2)):
        mean = np.average(raw, weights=q)
        values[name] = (np.average(raw, weights=p) - mean) / np.average((raw - mean) ** 2, weights=q) ** 0.5 / spread
    then, now = (np.arcsin(((t + 0.375) / (x.sum() + 0.75)) ** 0.5) for t, x in zip(tails, (m, n), strict=True))
    values["tail"] = 2 * (now - then) / spread
    values["ks"] = np.abs(np.cumsum(p) - np.cumsum(q)).max()
    values["w1"] = wasserstein_distance(middle, middle, p, q)
    values["z"] = max(values["chi2"], *(abs(values[name]) for name in ("location", "scale", "tail")))
    return values


def is_close(series: str, value: float, labels: str, at: int = AT_MINUTES) -> dict[str, Any]:
    return {
        "expr": f"abs({series} - {value!r}) < bool {max(abs(value), 1) * 1e-9!r}",
        "eval_time": f"{at}m",
        "exp_samples": [{"labels": f'{{model="m", version="1", {labels}}}', "value": 1}],
    }


def is_absent(series: str) -> dict[str, Any]:
    return {"expr": series, "eval_time": f"{AT_MINUTES}m", "exp_samples": []}


def has(feature: str, values: Mapping[str, float], window: Window = HOUR, at: int = AT_MINUTES) -> Checks:
    """Checks that a feature's records have these values."""
    checks = []
    for name, value in values.items():
        labels = f'feature="{feature}"'
        if name in ("chi2", "location", "scale", "tail"):
            series = window.record("z", "model_version_feature_test") + f'{{test="{name}", {labels}}}'
            labels += f', test="{name}"'
        else:
            series = f"{window.record(name)}{{{labels}}}"
        if name == "js":  # a root: what rounding leaves of 0 would show
            series, value = f"{series} ^ 2", value**2
        checks.append(is_close(series, float(value), labels, at))
    return checks


def check(hold: Hold, series: list[dict[str, str]], checks: Checks, *, step: str = "1m", every: str = "80m") -> None:
    hold({"interval": step, "input_series": series, "promql_expr_test": checks}, every=every)


def test_every_statistic_is_scipys_on_random_profiles_and_traffic(hold: Hold) -> None:
    random = np.random.default_rng(7)
    series, checks = [], []
    for number in range(15):
        reference = ordered_feature("x", random.normal(size=int(random.integers(500, 5_000))))
        shifted = random.normal(random.normal(scale=0.3), random.uniform(0.7, 1.5), size=(2, 400))
        dispersion = random.uniform(1, 4) if number % 2 else 1.0
        feature = f"f{number}"
        case = Case(
            feature=feature,
            ratios=_ratios(reference),
            num_reference=reference.num_samples,
            replicas=[_counted(reference, values) for values in shifted],
            restarts=[0, int(random.integers(25, 75))],
            extra=[] if dispersion == 1 else [_dispersion(feature, dispersion)],
        )
        counts, tails = case.counts(), (_reference_tail(reference), sum(case.counts(tail=True).values()))
        series += case.series()
        checks += has(feature, expected_ordered(_totals(reference, counts), list(counts.values()), tails, dispersion))

    check(hold, series, checks)


def test_a_profile_with_merged_bins_is_no_exception(hold: Hold) -> None:
    """Integers: many quantiles are one value, so cells are missing between 00 and 19."""
    random = np.random.default_rng(3)
    reference = ordered_feature("x", random.poisson(2, 3_000).astype(np.float64))
    assert len(reference.bins) < 15
    case = Case(
        feature="x",
        ratios=_ratios(reference),
        num_reference=3_000,
        replicas=[_counted(reference, random.poisson(2.3, 900).astype(np.float64))],
    )
    counts, tails = case.counts(), (_reference_tail(reference), sum(case.counts(tail=True).values()))

    check(hold, case.series(), has("x", expected_ordered(_totals(reference, counts), list(counts.values()), tails)))


def test_the_long_windows_add_up_five_minute_sums(hold: Hold) -> None:
    random = np.random.default_rng(5)
    reference = ordered_feature("x", random.poisson(1, size=5_000).astype(np.float64))
    minutes = 7 * 60
    case = Case(
        feature="x",
        ratios=_ratios(reference),
        num_reference=5_000,
        replicas=[_counted(reference, random.poisson(mean, size=600).astype(np.float64)) for mean in (1, 1.1)],
        restarts=[0, 205],
        minutes=minutes,
        step=5,
    )
    checks: Checks = []
    for window, num_sums in ((WINDOWS[1], 73), (WINDOWS[2], 84)):  # both ends of 6 hours are in them; all there are
        num_hours = num_sums * 5 / 60
        counts, tail = ({b: n * num_hours for b, n in case.counts(tail=t).items()} for t in (False, True))
        tails = (_reference_tail(reference), sum(tail.values()))
        values = expected_ordered(_totals(reference, counts), list(counts.values()), tails)
        checks += has("x", values, window, at=7 * 60)

    check(hold, case.series(), checks, step="5m", every="5m")


def test_without_drift_the_unbiased_psi_scatters_around_zero_and_the_raw_one_does_not(hold: Hold) -> None:
    random = np.random.default_rng(11)
    series = []
    for number in range(60):
        reference = ordered_feature("x", random.normal(size=5_000))
        case = Case(
            feature=f"null{number}",
            ratios=_ratios(reference),
            num_reference=5_000,
            replicas=[_counted(reference, random.normal(size=600))],
            step=5,
        )
        series += case.series()
    at = {"eval_time": f"{AT_MINUTES}m", "exp_samples": [{"labels": "{}", "value": 1}]}
    bias = 19 * (1 / 600 + 1 / 5_000)
    scores = 'model_version_feature_test:inference_feature_bin:z_increase1h{test="%s"}'

    check(
        hold,
        series,
        [
            {"expr": f"abs(avg({LEVEL}:psi_unbiased_increase1h)) < bool 0.005", **at},
            {"expr": f"abs(avg({LEVEL}:psi_increase1h) - {bias}) < bool 0.005", **at},
            {"expr": f"count({LEVEL}:psi_increase1h) == bool 60", **at},
            *(
                {"expr": f"abs(avg({scores % test})) < bool 0.4", **at}
                for test in ("chi2", "location", "scale", "tail")
            ),
            *({"expr": f"abs(stddev({scores % test}) - 1) < bool 0.3", **at} for test in ("chi2", "location", "scale")),
            {"expr": f"max({LEVEL}:alarm_z_increase1h) == bool 0", **at},
        ],
        step="5m",
    )


def test_a_bin_never_counted_is_zero_and_not_left_out(hold: Hold) -> None:
    case = Case(
        feature="color",
        ratios=_cells(red=0.5, green=0.3, blue=0.2, other=0.0, missing=0.0),
        num_reference=1_000,
        replicas=[_cells(red=240, green=180)],  # no series at all for blue
    )

    check(hold, case.series(), has("color", expected([500, 300, 200], [240, 180, 0])))


def test_a_bin_that_neither_reference_nor_traffic_has_does_not_live(hold: Hold) -> None:
    ratios = {("00", True): 0.0, ("19", False): 1.0, ("19", True): 0.0, ("missing", False): 0.0}
    constant = Case(
        feature="constant", ratios=ratios, num_reference=1_000, replicas=[{("19", False): 300, ("00", True): 0}]
    )
    moved = Case(feature="moved", ratios=ratios, num_reference=1_000, replicas=[{("19", False): 240, ("00", True): 60}])

    checks = has("constant", expected([1_000], [300])) + has("moved", expected([0, 1_000], [60, 240]))
    scores = 'model_version_feature_test:inference_feature_bin:z_increase1h{test=~"location|scale"}'
    check(hold, constant.series() + moved.series(), [*checks, is_absent(scores)])


def test_categories_named_like_cells_have_no_order(hold: Hold) -> None:
    case = Case(
        feature="prediction",
        ratios=_cells(**{"10": 0.5, "11": 0.5, "other": 0.0, "missing": 0.0}),
        num_reference=1_000,
        replicas=[_cells(**{"10": 100, "11": 200})],
    )
    scores = 'model_version_feature_test:inference_feature_bin:z_increase1h{test!="chi2"}'

    checks = [
        *has("prediction", expected([500, 500], [100, 200])),
        is_absent(scores),
        is_absent(f"{LEVEL}:ks_increase1h"),
    ]
    check(hold, case.series(), checks)


def test_missing_is_no_bin_and_other_is_one_where_the_reference_has_it(hold: Hold) -> None:
    pooled = categorical_feature("x", ["a"] * 500 + ["b"] * 300 + ["c"] * 4 + ["unheard-of"] * 96, ["a", "b", "c"])
    assert [b.id for b in pooled.bins] == ["a", "b", "other", "missing"]
    cases = [
        Case(
            feature="unseen",
            ratios=_cells(a=0.6, b=0.4, other=0.0, missing=0.0),
            num_reference=1_000,
            replicas=[_cells(a=180, b=120, other=100, missing=50)],
        ),
        Case(
            feature="pooled",
            ratios=_ratios(pooled),
            num_reference=pooled.num_samples,
            replicas=[_cells(a=180, b=120, other=100, missing=50)],
        ),
        Case(  # ordered: ratios are shares of the values present, so a tenth of the reference is no part of M
            feature="gaps",
            ratios=_cells(**{"00": 0.5, "19": 0.5, "missing": 0.1}),
            num_reference=1_000,
            replicas=[_cells(**{"00": 120, "19": 180, "missing": 500})],
        ),
        Case(  # categorical: ratios are shares of all rows
            feature="absent",
            ratios=_cells(a=0.54, b=0.36, other=0.0, missing=0.1),
            num_reference=1_000,
            replicas=[_cells(a=180, b=120, missing=500)],
        ),
    ]
    checks = [
        *has("unseen", expected([600, 400], [180, 120])),
        *has("pooled", expected([500, 300, 100], [180, 120, 100])),
        *has("gaps", expected([450, 450], [120, 180])),
        *has("absent", expected([540, 360], [180, 120])),
        *(
            is_close(f'{HOUR.unseen_z}{{feature="{f}", bin="{b}"}}', unseen(*counts), f'feature="{f}", bin="{b}"')
            for f, b, counts in [
                ("unseen", "other", (0, 1_000, 100, 450)),
                ("unseen", "missing", (0, 1_000, 50, 450)),
                ("pooled", "other", (100, 900, 100, 450)),
                ("gaps", "missing", (100, 1_000, 500, 800)),
                ("absent", "missing", (100, 1_000, 500, 800)),
            ]
        ),
    ]

    check(hold, [row for case in cases for row in case.series()], checks)


def unseen(num_then: float, rows_then: float, num: float, rows: float) -> float:
    then, now = (np.arcsin(((a + 0.375) / (b + 0.75)) ** 0.5) for a, b in ((num_then, rows_then), (num, rows)))
    return float(2 * (now - then) / (1 / rows + 1 / rows_then) ** 0.5)


def test_too_few_samples_give_no_value(hold: Hold) -> None:
    many = {f"c{k:02d}": 1 / 32 for k in range(32)}
    cases = [
        Case(feature=name, ratios=_cells(**ratios), num_reference=50_000, replicas=[dict.fromkeys(_cells(**ratios), n)])
        for name, ratios, n in [
            ("enough", {"a": 0.5, "b": 0.5}, 100.5),
            ("few", {"a": 0.5, "b": 0.5}, 99.5),
            ("thin", many, 9),
            ("thick", many, 10.5),
            ("silent", {"a": 0.5, "b": 0.5}, 0),
        ]
    ]
    checks = [
        *has("enough", expected([25_000] * 2, [100.5] * 2)),
        *has("thick", expected([50_000 / 32] * 32, [10.5] * 32)),
        *has("few", {"": 199}),
        *has("thin", {"": 288}),
        *has("silent", {"": 0}),
        *(
            is_absent(f'{LEVEL}:{kind}_increase1h{{feature="{feature}"}}')
            for kind in ("psi", "psi_unbiased", "js", "z", "alarm_z")
            for feature in ("few", "thin", "silent")
        ),
    ]

    check(hold, [row for case in cases for row in case.series()], checks)


def test_all_values_missing_is_unseen_however_few_are_left(hold: Hold) -> None:
    case = Case(
        feature="x",
        ratios=_cells(a=0.5, b=0.5, other=0.0, missing=0.0),
        num_reference=10_000,
        replicas=[_cells(a=0, b=0, other=0, missing=600)],
    )

    z = is_close(f'{HOUR.unseen_z}{{bin="missing"}}', unseen(0, 10_000, 600, 600), 'feature="x", bin="missing"')
    check(hold, case.series(), [z, is_absent(f"{LEVEL}:z_increase1h")])


@pytest.mark.parametrize(
    ("counts", "floor", "alarms"),
    [
        ((6_000, 6_000), None, False),
        ((5_000, 7_000), None, True),
        ((5_000, 7_000), 0.1, False),  # measured to wander further than that
        ((5_000, 7_000), 0.001, True),  # a floor is only ever raised
        ((5_600, 6_400), None, False),  # sure, and too small to matter
    ],
)
def test_an_alarm_is_sure_and_above_the_floor(
    hold: Hold, counts: tuple[int, int], floor: float | None, alarms: bool
) -> None:
    case = Case(
        feature="x", ratios=_cells(a=0.5, b=0.5), num_reference=50_000, replicas=[_cells(a=counts[0], b=counts[1])]
    )
    extra = (
        []
        if floor is None
        else [_row('inference_feature_drift_floor{model="m", version="1", feature="x"}', f"{floor}x90")]
    )
    values = expected([25_000, 25_000], counts)
    assert (values["psi_unbiased"] > max(floor or 0, HOUR.floor) and values["chi2"] > 4.8) == alarms

    check(hold, case.series() + extra, has("x", {"alarm_z": values["chi2"] if alarms else 0}))


def test_predicted_labels_are_the_feature_prediction(hold: Hold) -> None:
    predicted = {"cat": 90, "dog": 150, "other": 60, "missing": 30}
    labels = 'model="m", version="1", label="{}", instance="{}"'
    case = Case(
        feature="prediction",
        ratios=_cells(cat=0.5, dog=0.3, bird=0.1, other=0.1, missing=0.0),
        num_reference=1_000,
        replicas=[{}, {}],
        extra=[
            _row(f"inference_prediction_total{{{labels.format(label, replica)}}}", _counter(count, 0))
            for label, count in predicted.items()
            for replica in ("replica0", "replica1")
        ],
    )
    z = unseen(0, 1_000, 60, 660)

    check(
        hold,
        case.series(),
        [
            *has("prediction", expected([500, 300, 100, 100], [180, 300, 0, 120])),
            is_close(f'{HOUR.unseen_z}{{bin="missing"}}', z, 'feature="prediction", bin="missing"'),
        ],
    )


def test_traffic_without_a_reference_gives_no_value(hold: Hold) -> None:
    row = _row('inference_feature_bin_total{model="m", version="1", feature="lost", bin="00"}', _counter(600, 0))

    check(hold, [row], [is_absent(f"{LEVEL}:{kind}increase1h") for kind in ("", "psi_", "z_")])


@pytest.mark.parametrize("counts", [[300, 300], [10, 590]])
def test_the_expectation_here_is_the_textbook_formula(counts: list[int]) -> None:
    p = np.array([c + 0.5 for c in counts]) / 601
    q = np.array([500.5, 500.5]) / 1001

    assert expected([500, 500], counts)["psi"] == pytest.approx(float(((p - q) * np.log(p / q)).sum()))


def _ratios(feature: Feature) -> dict[tuple[str, bool], float]:
    return {(b.id, b.tail): b.ratio for b in feature.bins}


def _totals(feature: Feature, bins: Mapping[str, float]) -> list[float]:
    """Reference samples in each of the bins."""
    return [sum(b.ratio * feature.num_samples for b in feature.bins if b.id == name) for name in bins]


def _reference_tail(feature: Feature) -> float:
    return sum(b.ratio * feature.num_samples for b in feature.bins if b.tail)


def _counted(reference: Feature, values: NDArray[np.float64]) -> Counts:
    index = reference.assign(values)
    return {(b.id, b.tail): float((index == i).sum()) for i, b in enumerate(reference.bins)}


def _cells(**values: float) -> dict[tuple[str, bool], float]:
    return {(name, False): value for name, value in values.items()}


def _labels(feature: str, cell: tuple[str, bool], instance: str) -> str:
    tail = ', tail="1"' if cell[1] else ""
    return f'{{model="m", version="1", feature="{feature}", bin="{cell[0]}"{tail}, instance="{instance}"}}'


def _dispersion(feature: str, value: float) -> dict[str, str]:
    return _row(f'inference_feature_dispersion{{model="m", version="1", feature="{feature}"}}', f"{value!r}x{MINUTES}")


def _row(series: str, values: str) -> dict[str, str]:
    return {"series": series, "values": values}


def _counter(per_hour: float, restart: int, minutes: int = MINUTES, step: int = 1) -> str:
    """A counter that grows evenly, a value every `step` minutes; it restarts at a minute without losing a sample."""
    more = per_hour / 60 * step
    if restart == 0:
        return f"0+{more!r}x{minutes // step}"
    return f"0+{more!r}x{restart // step} {more!r}+{more!r}x{minutes // step}"
