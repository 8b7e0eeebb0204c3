"""Which of two models is better, held against scipy and against cases whose answer is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

from contract.schema import ClassificationPostprocess, RegressionPostprocess
from contract.tensor import Tensors
from training.comparison import Answers, Comparison, compare
from training.error import GateFailed
from training.evaluation import Measure, averaged, counted
from training.gate import check_comparison
from training.interval import Z_95, difference, mcnemar, share_difference

LABELS = ("cat", "dog", "fish")
POSTPROCESS = ClassificationPostprocess(tensor="logits", labels=LABELS)
COUNTS = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 1000))


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_mcnemar_is_the_exact_test_less_half_of_what_was_seen(gained: int, lost: int) -> None:
    expected = 1.0
    if gained != lost:
        exact = stats.binomtest(gained, gained + lost).pvalue
        expected = exact - stats.binom.pmf(gained, gained + lost, 0.5)
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


@settings(max_examples=60)
@given(COUNTS)
def test_the_interval_of_two_shares_ends_where_their_score_does(counts: tuple[int, int, int]) -> None:
    gained, lost, both = counts
    n = max(1, gained + lost + both)
    low, high = share_difference(gained, lost, n)
    assert -1 <= low <= (gained - lost) / n <= high <= 1
    assert share_difference(lost, gained, n) == pytest.approx((-high, -low))
    for end in (low, high):
        if abs(end) < 0.999:
            score = (gained - lost - n * end) / np.sqrt(n * variance_given(end, gained, lost, n))
            assert abs(score) == pytest.approx(Z_95, abs=2e-3)


def variance_given(delta: float, gained: int, lost: int, n: int) -> float:
    """Of the difference of a sample, under the likeliest shares that differ by delta, found by search."""

    def unlikelihood(q: float) -> float:
        shares, seen = np.array([q + delta, q, 1 - 2 * q - delta]), np.array([gained, lost, n - gained - lost])
        return -float((seen * np.log(np.maximum(shares, 1e-300))).sum())

    bounds = (max(0.0, -delta), (1 - delta) / 2)
    q = optimize.minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    return float(2 * q + delta - delta**2)


def test_the_interval_is_the_published_one() -> None:
    assert share_difference(12, 2, 50) == pytest.approx((0.0611, 0.3447), abs=5e-5)


def test_a_difference_of_means_has_about_the_normal_interval() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.normal(1.0, 1.0, 2000)
    ours = theirs - 0.1 + rng.normal(0, 0.5, 2000)
    low, high, p_value = difference(ours, theirs, lambda samples: float(samples.mean()))
    expected = stats.norm.interval(0.95, (ours - theirs).mean(), stats.sem(ours - theirs))
    assert (low, high) == pytest.approx(expected, abs=0.003)
    assert p_value < 0.01
    assert difference(ours, theirs, np.mean) == difference(ours, theirs, np.mean)
    assert difference(ours, ours, np.mean)[2] == 1.0


def overlapping(num_seeds: int, num: int = 400, width: int = 5) -> NDArray[np.float64]:
    """Rows of noise of which each value is the mean of five days, four of them its neighbour's too."""
    days = np.random.default_rng(0).normal(size=(num_seeds, num + width - 1))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(days, width, axis=1).mean(axis=2))


def test_samples_that_overlap_are_not_taken_for_independent_ones() -> None:
    """Two equal models may be called different in five of a hundred tests; sixteen blocks allow a little more."""
    differences = overlapping(100)
    nothing = np.zeros(differences.shape[1])
    p_values = {b: [difference(ours, nothing, np.mean, block=b)[2] for ours in differences] for b in (1, 25)}
    assert sum(p < 0.05 for p in p_values[25]) < 15
    assert sum(p < 0.05 for p in p_values[1]) > 30


def test_a_measures_block_is_the_comparisons() -> None:
    (noise_N,) = overlapping(1)
    targets = np.arange(len(noise_N)) % 3
    answers = sure(targets)

    def found(block: int, *, hits: bool = False) -> Comparison:
        def own(outputs: Tensors, targets: NDArray[Any]) -> list[Measure]:
            shift = float(outputs["logits"].max() > 4) * (1 + noise_N)
            if hits:
                return [replace(counted("share", noise_N + shift > 0.5), block=block)]
            return [averaged("cost", shift, larger_is_better=False, block=block)]

        other = replace(answers, outputs={"logits": answers.outputs["logits"] + 1})
        return compare(1, answers, other, targets, meant=POSTPROCESS, own=own)

    for hits in (False, True):
        alone, together = (found(block, hits=hits).differences[0] for block in (1, 25))
        assert together.high - together.low > 1.4 * (alone.high - alone.low)
        assert (together.value, together.is_share) == (alone.value, alone.is_share)


def sure(said: np.ndarray, postprocess: ClassificationPostprocess = POSTPROCESS) -> Answers:
    """A model that is rather sure of what it says."""
    return Answers(postprocess=postprocess, outputs={"logits": 4.0 * np.eye(len(postprocess.labels))[said]})


def said(num: int, num_wrong: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and answers of which some are wrong, from `start` on."""
    targets = np.arange(num) % 3
    answers = targets.copy()
    answers[start : start + num_wrong] = (answers[start : start + num_wrong] + 1) % 3
    return targets, answers


def test_a_model_is_the_same_as_itself() -> None:
    targets, answers = said(300, 30)
    comparison = compare(1, sure(answers), sure(answers), targets, meant=POSTPROCESS)
    assert {d.verdict for d in comparison.differences} == {"same"}
    assert {d.value for d in comparison.differences} == {0.0}
    assert comparison.num_disagreements == 0
    assert str(comparison).startswith("the same as version 1, as far as 300 samples can tell: accuracy +0.0000")


def test_the_better_one_is_told_and_the_other_way_round() -> None:
    targets, worse = said(300, 30)
    _, better = said(300, 5)
    up = compare(1, sure(worse), sure(better), targets, meant=POSTPROCESS)
    down = compare(2, sure(better), sure(worse), targets, meant=POSTPROCESS)
    assert (up.verdict, down.verdict) == ("better", "worse")
    first = up.differences[0]
    assert first.value == pytest.approx(25 / 300)
    assert 0 < first.low < first.value < first.high
    assert first.p_value == mcnemar(25, 0)
    assert [d.verdict for d in up.differences[:2]] == ["better", "better"]  # a smaller log loss is better
    assert up.num_disagreements == 25
    assert str(up).startswith("better than version 1: accuracy +0.0833 (95 % interval +0.")


def test_a_difference_that_chance_makes_is_none() -> None:
    targets, theirs = said(300, 10)
    _, ours = said(300, 8, start=100)
    comparison = compare(1, sure(theirs), sure(ours), targets, meant=POSTPROCESS)
    assert comparison.verdict == "same"
    assert comparison.num_disagreements == 18


def test_one_label_among_many_has_to_be_surer() -> None:
    """Six cats more are beyond chance once (p = 0.016), but not as one label of ten."""
    many = ClassificationPostprocess(tensor="logits", labels=tuple(f"label {i}" for i in range(10)))
    targets = np.arange(1000) % 10
    worse = targets.copy()
    worse[np.flatnonzero(targets == 0)[:6]] = 1
    comparison = compare(1, sure(worse, many), sure(targets, many), targets, meant=many)
    told = {d.metric: d for d in comparison.differences}
    assert told["accuracy"].verdict == "better"
    assert told["recall.label 0"].p_value == told["accuracy"].p_value == pytest.approx(2 / 2**7)
    assert told["recall.label 0"].verdict == "same"


def test_the_order_of_labels_does_not_matter() -> None:
    targets, answers = said(300, 30)
    turned = ClassificationPostprocess(tensor="logits", labels=("fish", "cat", "dog"))
    comparison = compare(1, sure((answers + 1) % 3, turned), sure(answers), targets, meant=POSTPROCESS)
    assert {d.value for d in comparison.differences} == {0.0}
    assert (comparison.num_disagreements, comparison.remarks) == (0, ())


def test_where_labels_differ_common_ones_are_compared() -> None:
    targets, answers = said(300, 0)
    two = ClassificationPostprocess(tensor="logits", labels=("dog", "cat"))
    comparison = compare(1, sure(1 - np.minimum(answers, 1), two), sure(answers), targets, meant=POSTPROCESS)
    assert comparison.num_samples == 200
    assert comparison.remarks == ("only one of the two knows fish; 100 samples are left out for that",)
    assert {d.metric for d in comparison.differences} >= {"accuracy", "recall.cat", "recall.dog"}
    strangers = ClassificationPostprocess(tensor="logits", labels=("bus", "car"))
    nothing = compare(1, sure(targets % 2, strangers), sure(answers), targets, meant=POSTPROCESS)
    assert nothing.verdict is None
    assert str(nothing).startswith("not compared with version 1: only one of the two knows bus, car, cat")


def test_numbers_are_compared_by_their_errors() -> None:
    rng = np.random.default_rng(0)
    postprocess = RegressionPostprocess(tensor="value", unit="m")
    targets = rng.normal(10, 3, 500)
    theirs, ours = (
        Answers(postprocess=postprocess, outputs={"value": targets[:, None] + rng.normal(0, spread, (500, 1))})
        for spread in (1.0, 0.5)
    )
    comparison = compare(1, theirs, ours, targets, meant=postprocess)
    told = {d.metric: d.verdict for d in comparison.differences}
    assert told == {"mean_absolute_error": "better", "root_mean_square_error": "better", "r2": "better"}
    assert comparison.num_disagreements is None
    assert compare(1, theirs, theirs, targets, meant=postprocess).verdict == "same"


def test_a_recipes_own_metrics_are_compared() -> None:
    def own(outputs: Tensors, targets: NDArray[Any]) -> list[Measure]:
        return [counted("within_one", np.abs(outputs["logits"].argmax(axis=1) - targets) <= 1)]

    targets, answers = said(300, 30)
    comparison = compare(1, sure(answers), sure(targets), targets, meant=POSTPROCESS, own=own)
    assert [(d.metric, d.verdict) for d in comparison.differences] == [("within_one", "better")]


def test_what_is_required_must_be_shown() -> None:
    targets, worse = said(300, 30)
    up = compare(1, sure(worse), sure(targets), targets, meant=POSTPROCESS)
    same = compare(1, sure(worse), sure(worse), targets, meant=POSTPROCESS)
    down = compare(1, sure(targets), sure(worse), targets, meant=POSTPROCESS)
    unknown = replace(same, differences=(), remarks=("version 1 preprocesses otherwise",))
    for comparison in (up, None):
        check_comparison(comparison, "better")
        check_comparison(comparison, "not worse")
    check_comparison(same, "not worse")
    for comparison in (same, down, unknown):
        refused(comparison, "better")
        check_comparison(comparison, None)
    refused(down, "not worse")
    assert refused(unknown, "not worse") == (
        "a version must be not worse, and this one is not compared with version 1: "
        "version 1 preprocesses otherwise; nothing was published"
    )


def refused(comparison: Comparison, requirement: str) -> str:
    with pytest.raises(GateFailed) as caught:
        check_comparison(comparison, requirement)  # type: ignore[arg-type]
    return str(caught.value)
