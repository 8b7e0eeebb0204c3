"""What is said of samples and of groups of them adds up, whatever the network answered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from contract.schema import (
    ClassificationPostprocess,
    Column,
    EmbeddingPostprocess,
    ImagePreprocess,
    Metric,
    RegressionPostprocess,
    TablePreprocess,
    TensorPreprocess,
    TextPreprocess,
)
from training.data import Split
from training.evaluation import averaged, resampled
from training.report.example import shower
from training.report.judgement import MIN_SLICE, Judgement, classes, judge, reliability, slices

LABELS = ("a", "b", "c")
LABELLED = ClassificationPostprocess(tensor="p", labels=LABELS, activation="identity")
TABLE = TablePreprocess(
    tensor="row",
    columns=(Column(name="age", kind="number"), Column(name="town", kind="category", categories=("Ulm", "Bonn"))),
)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
def test_what_is_said_of_labels_adds_up(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    probabilities, targets = rng.dirichlet(np.ones(3), count), rng.integers(0, 3, count)
    found = classes(LABELLED, {"p": probabilities}, targets)
    right = probabilities.argmax(axis=1) == targets
    assert found.confusion.sum() == count
    assert np.trace(found.confusion) == right.sum()
    for label in range(3):
        recall, precision = found.recall(label), found.precision(label)
        assert (recall is None) == (not (targets == label).any())
        assert recall is None or recall.value == right[targets == label].mean()
        assert precision is None or precision.value == right[probabilities.argmax(axis=1) == label].mean()
    assert sum(mistake[2] for mistake in found.mistakes(9)) == count - right.sum()
    bins = reliability(found)
    assert sum(b.accuracy.num_samples for b in bins) == count
    assert all(b.low <= b.confidence <= b.high for b in bins)
    judged = judge(LABELLED, {"p": probabilities}, targets)
    assert judged is not None
    assert judged.measure(np.ones(count, dtype=bool)).value == right.mean()
    worst = judged.worst(5)
    cost = -np.log(np.maximum(probabilities[np.arange(count), targets], 1e-12))
    assert [*cost[worst]] == sorted(cost, reverse=True)[:5]


def test_slices_part_the_samples_by_what_they_look_like() -> None:
    rng = np.random.default_rng(0)
    age, town = rng.uniform(18, 90, 400), rng.integers(0, 3, 400)
    age[:40] = np.nan
    right = age < 50
    probabilities = np.where(right[:, None], np.eye(3)[0], np.eye(3)[1])
    test = Split(inputs={"row": np.stack((age, town), axis=1)}, targets=np.zeros(400, dtype=np.int64))
    judged = judge(LABELLED, {"p": probabilities}, test.targets)
    assert judged is not None
    found = slices(judged, TABLE, test)
    by_feature = {name: [s for s in found if s.feature == name] for name in ("column.age", "column.town")}
    assert [s.where for s in by_feature["column.town"]] == ["Ulm", "Bonn", "other"]
    assert by_feature["column.age"][0].where == "missing"
    assert all(sum(s.metric.num_samples for s in parts) == 400 for parts in by_feature.values())
    assert all(s.metric.num_samples >= MIN_SLICE for s in found)
    whole = judged.measure(np.ones(400, dtype=bool))
    weak = {s.where for s in by_feature["column.age"] if judged.is_weak(s.metric, whole)}
    assert weak == {s.where for s in by_feature["column.age"] if s.metric.value == 0}
    assert weak


def test_a_number_is_judged_by_how_far_off_it_is() -> None:
    spec = RegressionPostprocess(tensor="y", scale=2.0, unit="mm")
    judged = judge(spec, {"y": np.array([[1.0], [2.0], [5.0]])}, np.array([2.0, 4.5, 4.0]))
    assert judged is not None
    assert judged.worst(2) == [2, 1]
    assert judged.said(2) == ("4 mm", "10 mm")
    whole = judged.measure(np.ones(3, dtype=bool))
    assert whole.value == pytest.approx(6.5 / 3)
    worse = Metric(name="mean_absolute_error", value=9, low=8, high=10, num_samples=1)
    assert judged.is_weak(worse, whole)


def test_a_recipes_own_measure_of_pairs_makes_slices_but_no_worst() -> None:
    pairs = np.random.default_rng(0).normal(size=(50, 2))
    measures = [resampled("gap", pairs, lambda rows: float(abs(rows.mean())), larger_is_better=False)]
    judged = judge(LABELLED, {}, np.zeros(50), lambda outputs, targets: measures)
    assert isinstance(judged, Judgement)
    assert judged.worst(3) == []
    half = np.arange(50) < 25
    assert judged.measure(half).value == float(abs(pairs[:25].mean()))


def test_what_has_no_truth_isnt_judged() -> None:
    assert judge(EmbeddingPostprocess(tensor="v"), {"v": np.ones((3, 4))}, np.zeros(3)) is None


def test_samples_that_belong_together_are_judged_together() -> None:
    quarters = np.repeat(np.random.default_rng(0).normal(size=20), 60)
    measure = averaged("cost", quarters, larger_is_better=False, block=63)
    judged = judge(EmbeddingPostprocess(tensor="e"), {}, quarters, own=lambda outputs, targets: [measure])
    assert judged is not None
    assert judged.measure(np.ones(len(quarters), dtype=bool)) == measure.metric


def test_samples_are_shown_as_what_they_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    picture = shower(ImagePreprocess(tensor="image", mode="RGB", height=4, width=4), None)
    shown = picture({"image": np.zeros((1, 4, 4, 3), dtype=np.uint8)}, 0)
    assert shown.picture.startswith("data:image/png;base64,")
    row = shower(TABLE, None)({"row": np.array([[41.5, 2.0], [np.nan, 1.0]])}, 0)
    assert row.values == (("age", "41.5"), ("town", "missing"))
    file = tmp_path_factory.mktemp("words") / "tokenizer.json"
    Tokenizer(WordLevel({"<pad>": 0, "good": 1, "day": 2}, unk_token="<pad>")).save(str(file))
    spec = TextPreprocess(tokenizer="tokenizer.json", ids_tensor="ids", max_length=4)
    ids = {"ids": np.array([[1, 2, 0, 0]])}
    assert shower(spec, file)(ids, 0).text == "good day"
    assert shower(spec, None)(ids, 0).text == "1 2"
    numbers = shower(TensorPreprocess(), None)({"x": np.arange(40.0).reshape(1, 40)}, 0)
    assert numbers.values == (("x", "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … (40)"),)
