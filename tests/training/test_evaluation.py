from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from contract.passport import InputProfile, Passport
from contract.schema import (
    AxisRange,
    ClassificationPostprocess,
    Evaluation,
    Metric,
    RegressionPostprocess,
    TensorPostprocess,
)
from contract.tensor import Tensors
from training.error import GateFailed, ParityFailed
from training.evaluation import Measure, averaged, evaluate, is_measured
from training.gate import Gate, check, check_engine

POSTPROCESS = ClassificationPostprocess(tensor="logits", labels=("cat", "dog", "fish"))


def test_metrics_are_those_of_a_case_worked_by_hand() -> None:
    chances = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.75, 0.125, 0.125], [0.25, 0.5, 0.25]])
    evaluation = evaluate("d", "test", POSTPROCESS, {"logits": np.log(chances)}, np.array([0, 1, 1, 1]))
    assert evaluation.metric("accuracy").value == 0.75
    assert evaluation.metric("accuracy").num_samples == 4
    assert evaluation.metric("log_loss").value == pytest.approx(-np.log([0.5, 0.5, 0.125, 0.5]).mean())
    # Confidence 0.5 three times, right each time; 0.75 once, and wrong.
    assert evaluation.metric("calibration_error").value == pytest.approx((3 * 0.5 + 0.75) / 4)
    assert evaluation.metric("recall.cat").value == 1
    assert evaluation.metric("recall.dog").value == pytest.approx(2 / 3)
    with pytest.raises(KeyError):
        evaluation.metric("recall.fish")  # none was there to be found


def test_a_model_that_is_sure_and_wrong_has_a_finite_loss() -> None:
    logits = np.array([[1e6, 0, 0], [0, 1e6, 0]])
    evaluation = evaluate("d", "test", POSTPROCESS, {"logits": logits}, np.array([1, 1]))
    assert np.isfinite(evaluation.metric("log_loss").value)


def test_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(GateFailed, match="'logits' holds NaN"):
        evaluate("d", "test", POSTPROCESS, {"logits": np.array([[np.nan, 0, 0]])}, np.array([0]))


def test_numbers_are_measured_by_their_errors() -> None:
    postprocess = RegressionPostprocess(tensor="value", scale=2.0, offset=1.0, unit="m")
    targets = np.array([1.0, 3.0, 5.0, 7.0])
    value = (targets + np.array([1.0, -1.0, 0.0, 2.0]) - 1) / 2
    evaluation = evaluate("d", "test", postprocess, {"value": value[:, None]}, targets[:, None])
    assert [metric.name for metric in evaluation.metrics] == ["mean_absolute_error", "root_mean_square_error", "r2"]
    assert evaluation.metric("mean_absolute_error").value == pytest.approx(1.0)
    assert evaluation.metric("root_mean_square_error").value == pytest.approx(np.sqrt(6 / 4))
    assert evaluation.metric("r2").value == pytest.approx(1 - (6 / 4) / 5)
    for metric in evaluation.metrics:
        assert metric.low < metric.value < metric.high


def test_an_error_that_is_known_is_inside_its_interval() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(0, 3, 2_000)
    outputs = {"value": targets + rng.normal(0, 1, 2_000)}
    evaluation = evaluate("d", "test", RegressionPostprocess(tensor="value"), outputs, targets)
    known = {"mean_absolute_error": np.sqrt(2 / np.pi), "root_mean_square_error": 1.0, "r2": 1 - 1 / 9}
    for name, value in known.items():
        metric = evaluation.metric(name)
        assert metric.low < value < metric.high
        assert metric.high - metric.low < 0.1


def test_a_recipe_brings_metrics_for_its_own_kind_of_answer() -> None:
    def own(outputs: Tensors, targets: NDArray[Any]) -> list[Measure]:
        right = (outputs["mask"] > 0) == targets
        return [averaged("pixel_error", 1.0 - right.mean(axis=1), larger_is_better=False)]

    assert not is_measured(TensorPostprocess())
    outputs, targets = {"mask": np.array([[1.0, -1.0], [1.0, 1.0]])}, np.array([[True, False], [True, False]])
    evaluation = evaluate("d", "test", TensorPostprocess(), outputs, targets, own)
    assert evaluation.metric("pixel_error").value == 0.25


EVALUATION = Evaluation(
    dataset="d",
    split="test",
    metrics=(
        Metric(name="accuracy", value=0.91, low=0.899, high=0.92, num_samples=9),
        Metric(name="error", value=0.03, low=0.02, high=0.04, num_samples=9),
    ),
)


def test_a_gate_judges_the_unfavourable_end() -> None:
    check([Gate(metric="accuracy", at_least=0.899), Gate(metric="error", at_most=0.04)], EVALUATION)
    with pytest.raises(GateFailed) as caught:
        check([Gate(metric="accuracy", at_least=0.9), Gate(metric="error", at_most=0.035)], EVALUATION)
    assert "accuracy is 0.9100 (95 % interval 0.8990 to 0.9200), expected a lower end of at least 0.9" in str(
        caught.value
    )
    assert "error is 0.0300" in str(caught.value)
    assert str(caught.value).endswith("nothing was published")


def test_a_gate_without_a_bound_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no bound"):
        Gate(metric="accuracy")


@pytest.mark.parametrize(
    ("precision", "max_error", "passes"),
    [("FP32", 9e-5, True), ("FP32", 2e-4, False), ("FP16", 4e-3, True), ("FP16", 6e-3, False), ("INT8", 1, False),
     ("FP32", None, True)],
)  # fmt: skip
def test_an_engine_is_held_to_its_precision(precision: str, max_error: float | None, passes: bool) -> None:
    passport = Passport.model_validate(
        {
            "engine": "model.plan", "engine_sha256": "0" * 64, "engine_size_bytes": 1, "onnx_sha256": "0" * 64,
            "builder": "tensorrt", "builder_version": "10.9", "compute_capabilities": ("8.6",), "precision": precision,
            "profile": (InputProfile(name="x", axes=(AxisRange(min=1, opt=1, max=1),)),), "max_error": max_error,
            "created_at": "now", "build_time_s": 1,
        }
    )  # fmt: skip
    if passes:
        check_engine(passport)
        return
    with pytest.raises(ParityFailed, match=r"strays by|decides nothing"):
        check_engine(passport)
