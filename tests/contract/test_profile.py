from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from contract import Repository
from contract.observation import Observer, output_values
from contract.postprocess import interpret, softmax
from contract.profile import Feature, categorical_feature, ordered_feature
from contract.schema import ClassificationPostprocess

values = hnp.arrays(
    np.float64,
    st.integers(1, 300),
    elements=st.floats(-5, 5, allow_nan=False) | st.just(np.nan) | st.sampled_from([0.0, 1.0]),
)


@given(values)
def test_the_reference_falls_into_its_own_bins_in_its_own_shares(reference: np.ndarray[Any, Any]) -> None:
    if np.isnan(reference).all():
        with pytest.raises(ValueError, match="no reference value is a number"):
            ordered_feature("f", reference)
        return
    feature = ordered_feature("f", reference)
    counts = np.bincount(feature.assign(reference), minlength=len(feature.bins))
    present = (~np.isnan(reference)).sum()
    shares = [*(counts[:-1] / present), counts[-1] / len(reference)]
    np.testing.assert_allclose([b.ratio for b in feature.bins], shares, atol=1e-12)
    assert len(feature.bins) <= 23
    assert len({(b.id, b.tail) for b in feature.bins}) == len(feature.bins)
    assert [b.id for b in feature.bins[:-1]] == sorted(b.id for b in feature.bins[:-1])
    assert feature == Feature.model_validate_json(feature.model_dump_json())


def test_an_even_reference_gives_twenty_bins_and_two_tails() -> None:
    feature = ordered_feature("f", np.arange(10_000.0))
    ratio = {(b.id, b.tail): b.ratio for b in feature.bins}
    assert len(feature.bins) == 23
    assert ratio["00", True] == pytest.approx(0.01, abs=1e-3)
    assert ratio["00", False] == pytest.approx(0.04, abs=1e-3)
    assert ratio["07", False] == pytest.approx(0.05, abs=1e-3)
    assert ratio["19", True] == pytest.approx(0.01, abs=1e-3)


def test_a_constant_reference_sees_values_above_and_below() -> None:
    feature = ordered_feature("aspect", np.ones(100))
    below, at, above, missing = feature.assign(np.array([0.5, 1.0, 1.5, np.nan]))
    assert [b.ratio for b in feature.bins] == [0, 1, 0, 0]
    assert [b.id for b in feature.bins] == ["00", "01", "19", "missing"]  # a shift either way leaves its bin
    assert (below, at, above, missing) == (0, 1, 2, 3)


def test_a_common_largest_value_has_a_bin_apart_from_what_lies_above() -> None:
    feature = ordered_feature("f", np.concatenate([np.linspace(0, 0.9, 400), np.ones(600)]))
    ids = [feature.bins[i].id for i in feature.assign(np.array([0.9, 1.0, 1.1]))]
    assert ids == ["08", "09", "19"]


def test_rare_categories_are_pooled_and_unseen_ones_counted() -> None:
    feature = categorical_feature("c", ["a"] * 90 + ["b"] * 6 + ["rare"] * 4, ["a", "rare", "b"])
    assert feature.categories == ("a", "b")
    assert [b.ratio for b in feature.bins] == pytest.approx([0.9, 0.06, 0.04, 0])
    assert feature.lookup(["b", "rare", "new", "missing"]).tolist() == [1, 2, 2, 3]


def test_a_feature_with_many_categories_has_25_bins() -> None:
    names = [f"c{i:02d}" for i in range(50)]
    feature = categorical_feature("c", [name for i, name in enumerate(names) for _ in range(5 + i)], names)
    assert feature.categories == tuple(names[-23:])
    assert len(feature.bins) == 25


def test_the_observer_counts_inputs_outputs_and_what_is_seen_before(tiny_repository: Repository) -> None:
    contract = tiny_repository.contract("tiny", 1)
    images = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (0, 255)])
    meaning = interpret(contract.postprocess, {"logits": np.array([[9.0, 0, 0], [np.nan, 0, 0]], np.float32)})
    assigned = Observer(contract).assign({"image": images}, {"aspect": np.array([1.0, 1.5])}, meaning)
    bins = {f.name: [f.bins[i].id for i in assigned[f.name]] for f in contract.profile.features}
    assert set(bins) == {"brightness", "contrast", "sharpness", "aspect", "prediction", "confidence", "entropy"}
    assert bins["brightness"] == ["00", "19"]
    assert bins["prediction"] == ["dark", "missing"]
    assert bins["confidence"][1] == bins["entropy"][1] == "missing"
    raw = Observer(contract).assign({"image": images}, {}, meaning)
    assert set(bins) - set(raw) == {"aspect"}


def test_entropy_of_a_certain_and_of_an_even_answer() -> None:
    spec = ClassificationPostprocess(tensor="p", labels=("a", "b"), activation="identity")
    shown = output_values(spec, np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert shown["entropy"].tolist() == pytest.approx([0, np.log(2)])
    assert shown["prediction"].tolist() == [0, 0]


def test_softmax_neither_overflows_nor_hides_nan() -> None:
    rows = softmax(np.array([[1e4, 0, -1e4], [np.nan, 0, 0], [np.inf, 0, 0]], np.float32))
    assert rows[0].tolist() == [1, 0, 0]
    assert np.isnan(rows[1:]).all()
