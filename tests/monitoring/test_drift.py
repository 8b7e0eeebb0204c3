"""PSI as Prometheus computes it, held against scipy on the same counts.

Each test writes series and expected values into a rule test file and lets promtool run the rules of the repository.
"""

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy.special import rel_entr

from contract.profile import Feature, categorical_feature, ordered_feature
from monitoring.prometheus import find_binary

RULES = Path(__file__).parents[2] / "monitoring" / "rules" / "tidegate.rules.yml"
LEVEL = "model_version_feature:inference_feature_bin"
MINUTES = 90  # series are an hour of samples and then some
AT_MINUTES = 80

Counts = Mapping[tuple[str, bool], float]  # bin and whether it is a tail cell, to samples an hour


@dataclass(frozen=True, kw_only=True)
class Case:
    """A feature's reference and, for each replica, the samples an hour it counted in each cell."""

    feature: str
    ratios: Mapping[tuple[str, bool], float]
    num_reference: int
    replicas: Sequence[Counts]
    restarts: Sequence[int] = ()  # minute at which each replica starts again from 0
    extra: list[dict[str, str]] = field(default_factory=list)

    def series(self) -> list[dict[str, str]]:
        rows = list(self.extra)
        for index, counts in enumerate(self.replicas):
            restart = self.restarts[index] if index < len(self.restarts) else 0
            for cell, ratio in self.ratios.items():
                labels = _labels(self.feature, cell, f"replica{index}")
                rows.append(_row(f"inference_feature_reference_ratio{labels}", f"{ratio!r}x{MINUTES}"))
            for cell, count in counts.items():
                labels = _labels(self.feature, cell, f"replica{index}")
                rows.append(_row(f"inference_feature_bin_total{labels}", _counter(count, restart)))
            labels = f'{{model="m", version="1", feature="{self.feature}", instance="replica{index}"}}'
            rows.append(_row(f"inference_feature_reference_samples{labels}", f"{self.num_reference}x{MINUTES}"))
        return rows

    def counts(self) -> dict[str, float]:
        """Samples in each bin over all replicas, without `missing`."""
        total = {cell[0]: 0.0 for cell in self.ratios if cell[0] != "missing"}
        for counts in self.replicas:
            for (name, _), count in counts.items():
                if name != "missing":
                    total[name] += count
        return total


def expected(reference: Sequence[float], counts: Sequence[float]) -> tuple[float, float]:
    """PSI and unbiased PSI of two lists of counts, bin by bin: a Jeffreys divergence, by scipy."""
    m, n = np.asarray(reference), np.asarray(counts)
    lives = (m > 0) | (n > 0)
    p, q = ((x[lives] + 0.5) / (x[lives] + 0.5).sum() for x in (n, m))
    psi = float(rel_entr(p, q).sum() + rel_entr(q, p).sum())
    return psi, psi - float((lives.sum() - 1) * (1 / n.sum() + 1 / m.sum()))


def is_close(metric: str, feature: str, value: float) -> dict[str, Any]:
    return {
        "expr": f'abs({metric}{{feature="{feature}"}} - {value!r}) < bool 1e-9',
        "eval_time": f"{AT_MINUTES}m",
        "exp_samples": [{"labels": f'{{model="m", version="1", feature="{feature}"}}', "value": 1}],
    }


def is_absent(metric: str, feature: str) -> dict[str, Any]:
    return {"expr": f'{metric}{{feature="{feature}"}}', "eval_time": f"{AT_MINUTES}m", "exp_samples": []}


def has_psi(feature: str, reference: Sequence[float], counts: Sequence[float]) -> list[dict[str, Any]]:
    psi, unbiased = expected(reference, counts)
    return [
        is_close(f"{LEVEL}:psi_increase1h", feature, psi),
        is_close(f"{LEVEL}:psi_unbiased_increase1h", feature, unbiased),
        is_close(f"{LEVEL}:increase1h", feature, float(sum(counts))),
    ]


def run(folder: Path, series: Sequence[dict[str, str]], checks: Sequence[dict[str, Any]]) -> None:
    test = {"interval": "1m", "input_series": list(series), "promql_expr_test": list(checks)}
    document = {"rule_files": [str(RULES)], "evaluation_interval": f"{AT_MINUTES}m", "tests": [test]}
    path = folder / "drift.test.yml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = subprocess.run(
        [find_binary("promtool"), "test", "rules", path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_psi_is_scipys_on_random_profiles_and_traffic(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    series, checks = [], []
    for number in range(30):
        reference = ordered_feature("x", random.normal(size=int(random.integers(500, 5_000))))
        shifted = random.normal(random.normal(scale=0.3), random.uniform(0.7, 1.5), size=(2, 400))
        case = Case(
            feature=f"f{number}",
            ratios={(b.id, b.tail): b.ratio for b in reference.bins},
            num_reference=reference.num_samples,
            replicas=[_counted(reference, values) for values in shifted],
            restarts=[0, int(random.integers(25, 75))],
        )
        counts = case.counts()
        totals = [sum(b.ratio * reference.num_samples for b in reference.bins if b.id == name) for name in counts]
        series += case.series()
        checks += has_psi(case.feature, totals, list(counts.values()))

    run(tmp_path, series, checks)


def test_without_drift_the_unbiased_psi_scatters_around_zero_and_the_raw_one_does_not(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    series = []
    for number in range(60):
        reference = ordered_feature("x", random.normal(size=5_000))
        case = Case(
            feature=f"null{number}",
            ratios={(b.id, b.tail): b.ratio for b in reference.bins},
            num_reference=5_000,
            replicas=[_counted(reference, random.normal(size=600))],
        )
        series += case.series()
    at = {"eval_time": f"{AT_MINUTES}m", "exp_samples": [{"labels": "{}", "value": 1}]}
    bias = 19 * (1 / 600 + 1 / 5_000)

    run(
        tmp_path,
        series,
        [
            {"expr": f"abs(avg({LEVEL}:psi_unbiased_increase1h)) < bool 0.005", **at},
            {"expr": f"abs(avg({LEVEL}:psi_increase1h) - {bias}) < bool 0.005", **at},
            {"expr": f"count({LEVEL}:psi_increase1h) == bool 60", **at},
        ],
    )


def test_a_bin_never_counted_is_zero_and_not_left_out(tmp_path: Path) -> None:
    case = Case(
        feature="color",
        ratios=_cells(red=0.5, green=0.3, blue=0.2, other=0.0, missing=0.0),
        num_reference=1_000,
        replicas=[_cells(red=240, green=180)],  # no series at all for blue
    )

    run(tmp_path, case.series(), has_psi("color", [500, 300, 200], [240, 180, 0]))


def test_a_bin_that_neither_reference_nor_traffic_has_does_not_live(tmp_path: Path) -> None:
    ratios = {("00", True): 0.0, ("19", False): 1.0, ("19", True): 0.0, ("missing", False): 0.0}
    constant = Case(
        feature="constant", ratios=ratios, num_reference=1_000, replicas=[{("19", False): 300, ("00", True): 0}]
    )
    moved = Case(feature="moved", ratios=ratios, num_reference=1_000, replicas=[{("19", False): 240, ("00", True): 60}])

    checks = has_psi("constant", [1_000], [300]) + has_psi("moved", [0, 1_000], [60, 240])
    run(tmp_path, constant.series() + moved.series(), checks)


def test_missing_is_no_bin_and_other_is_one_where_the_reference_has_it(tmp_path: Path) -> None:
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
            ratios={(b.id, False): b.ratio for b in pooled.bins},
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
        *has_psi("unseen", [600, 400], [180, 120]),
        *has_psi("pooled", [500, 300, 100], [180, 120, 100]),
        *has_psi("gaps", [450, 450], [120, 180]),
        *has_psi("absent", [540, 360], [180, 120]),
    ]

    run(tmp_path, [row for case in cases for row in case.series()], checks)


def test_too_few_samples_give_no_value(tmp_path: Path) -> None:
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
        *has_psi("enough", [25_000] * 2, [100.5] * 2),
        *has_psi("thick", [50_000 / 32] * 32, [10.5] * 32),
        is_close(f"{LEVEL}:increase1h", "few", 199),
        is_close(f"{LEVEL}:increase1h", "thin", 288),
        is_close(f"{LEVEL}:increase1h", "silent", 0),
        *(
            is_absent(f"{LEVEL}:{kind}_increase1h", feature)
            for kind in ("psi", "psi_unbiased")
            for feature in ("few", "thin", "silent")
        ),
    ]

    run(tmp_path, [row for case in cases for row in case.series()], checks)


def test_predicted_labels_are_the_feature_prediction(tmp_path: Path) -> None:
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

    run(tmp_path, case.series(), has_psi("prediction", [500, 300, 100, 100], [180, 300, 0, 120]))


def test_traffic_without_a_reference_gives_no_value(tmp_path: Path) -> None:
    row = _row('inference_feature_bin_total{model="m", version="1", feature="lost", bin="00"}', _counter(600, 0))

    run(tmp_path, [row], [is_absent(f"{LEVEL}:psi_increase1h", "lost"), is_absent(f"{LEVEL}:increase1h", "lost")])


@pytest.mark.parametrize("counts", [[300, 300], [10, 590]])
def test_the_expectation_here_is_the_textbook_formula(counts: list[int]) -> None:
    p = np.array([c + 0.5 for c in counts]) / 601
    q = np.array([500.5, 500.5]) / 1001

    assert expected([500, 500], counts)[0] == pytest.approx(float(((p - q) * np.log(p / q)).sum()))


def _counted(reference: Feature, values: NDArray[np.float64]) -> Counts:
    index = reference.assign(values)
    return {(b.id, b.tail): float((index == i).sum()) for i, b in enumerate(reference.bins)}


def _cells(**values: float) -> dict[tuple[str, bool], float]:
    return {(name, False): value for name, value in values.items()}


def _labels(feature: str, cell: tuple[str, bool], instance: str) -> str:
    tail = ', tail="1"' if cell[1] else ""
    return f'{{model="m", version="1", feature="{feature}", bin="{cell[0]}"{tail}, instance="{instance}"}}'


def _row(series: str, values: str) -> dict[str, str]:
    return {"series": series, "values": values}


def _counter(per_hour: float, restart: int) -> str:
    """A counter that grows evenly, one value a minute; it restarts at a minute without losing a sample."""
    step = per_hour / 60
    if restart == 0:
        return f"0+{step!r}x{MINUTES}"
    return f"0+{step!r}x{restart} {step!r}+{step!r}x{MINUTES}"
