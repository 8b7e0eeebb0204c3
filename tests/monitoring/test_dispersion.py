"""The rules that measure dispersion, on traffic whose dispersion is known."""

import numpy as np
import pytest

from bench.drift.evaluator import Evaluator, Vector
from bench.drift.ruling import COARSE, STEP_S, record, rules
from bench.drift.traffic import Distribution, Model, Traffic, counters, simulate
from monitoring.dispersion import dispersion_group
from monitoring.drift import MEASURED_DISPERSION, WINDOWS

MODEL = Model.draw(np.random.default_rng(0), 20_000, ordered=4, categorical=2)
MINUTES = 30 * 60


def measured(traffic: Traffic) -> np.ndarray:
    counts = simulate(MODEL, traffic, MINUTES, np.random.default_rng(1))
    series = {name: Vector(v.labels, v.values[:, ::COARSE]) for name, v in counters(MODEL, counts).items()}
    evaluator = Evaluator(series, COARSE * STEP_S)
    record(evaluator, (*rules(WINDOWS[-1:]), *dispersion_group().rules))
    return evaluator.series[MEASURED_DISPERSION].values


@pytest.mark.parametrize(("session", "tolerance"), [(1.0, 0.12), (2.0, 0.12), (4.0, 0.15)])
def test_it_is_that_of_the_sessions(session: float, tolerance: float) -> None:
    found = measured(Traffic(rate=50, session=session))

    assert found[:, -1].mean() == pytest.approx(2 * session - 1, rel=tolerance)
    assert found[~np.isnan(found)].min() >= 1


def test_neither_a_drift_nor_a_daily_wave_is_taken_for_it() -> None:
    shifted = Traffic(rate=50, wave=0.2, shifted=Distribution(location=1), shift_at=MINUTES // 2)

    assert measured(shifted)[:, -1].max() < 1.25


def test_a_sudden_shift_of_a_model_half_an_hour_old_hardly_shows() -> None:
    shifted = Traffic(rate=50, shifted=Distribution(location=1), shift_at=30)

    assert measured(shifted)[:, 8:].max() < 2.5
