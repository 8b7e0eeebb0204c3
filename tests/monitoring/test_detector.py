import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.profile import categorical_feature, ordered_feature
from monitoring.detector import Cell, Detector, Reference, alternatives

UNIT = 2.0**-20


def ordered(num_samples: int = 50_000, seed: int = 0, **measured: float) -> tuple[Reference, dict[Cell, float]]:
    values = np.random.default_rng(seed).normal(size=num_samples)
    feature = ordered_feature("x", values)
    shares = {(one.id, one.tail): one.ratio for one in feature.bins}
    return Reference(shares=shares, num_samples=num_samples, **measured), shares


def categorical(num_samples: int = 10_000) -> Reference:
    values = np.random.default_rng(0).choice(["a", "b", "c"], size=num_samples, p=[0.7, 0.25, 0.05]).tolist()
    feature = categorical_feature("c", values, ["a", "b", "c"])
    return Reference(shares={(one.id, one.tail): one.ratio for one in feature.bins}, num_samples=num_samples)


def draw(reference: Reference, steps: int, each: int, seed: int, weights: np.ndarray | None = None) -> np.ndarray:
    q = np.array([reference.shares[cell] for cell in reference.cells])
    p = q if weights is None else q * weights
    return np.asarray(np.random.default_rng(seed).multinomial(each, p / p.sum(), size=steps).T)


def shifted(reference: Reference, size: float) -> np.ndarray:
    """Weights that move the mean rank by about `size` standard deviations."""
    ranks = np.linspace(-1.7, 1.7, len(reference.cells))
    return np.exp(size * ranks)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.001, 1), min_size=3, max_size=20),
    st.integers(500, 100_000),
    st.floats(0, 0.2),
    st.floats(1, 10),
)
def test_no_alternative_is_expected_to_grow_while_the_reference_holds(
    weights: list[float], num_samples: int, floor: float, dispersion: float
) -> None:
    shares = np.array(weights) / sum(weights)
    cells = [(f"{k:02d}", k in (0, len(weights) - 1)) for k in range(len(weights))]
    for names in (cells, [(f"c{k}", False) for k in range(len(weights))]):
        given_shares = dict(zip(names, shares.tolist(), strict=True)) | {("missing", False): 0.0}
        reference = Reference(shares=given_shares, num_samples=num_samples, floor=floor, dispersion=dispersion)
        q = np.array([given_shares[cell] for cell in reference.cells])

        expected = np.exp(alternatives(reference) * UNIT) @ q

        assert expected.max() <= 1 + 1e-12


def test_nor_while_a_share_is_within_the_floor() -> None:
    """The promise for shares is against every null that near, not only against the reference itself."""
    reference = Reference(
        shares={("a", False): 0.8, ("b", False): 0.2, ("missing", False): 0.0}, num_samples=10_000, floor=0.01
    )
    rows = np.exp(alternatives(reference) * UNIT)
    near = (2 / np.sqrt(10_000) + 0.1) / 2
    for moved in np.linspace(-near, near, 21):
        b = np.sin(np.arcsin(np.sqrt(0.2)) + moved) ** 2
        p = np.array([{"a": 1 - b, "b": b, "missing": 0.0}[name] for name, _ in reference.cells])
        assert (rows @ p).max() <= 1 + 1e-12


@pytest.mark.parametrize("reference", [ordered()[0], categorical()], ids=["ordered", "categorical"])
def test_the_mean_time_to_a_false_alarm_is_above_its_bound(reference: Reference) -> None:
    bound, times = 20, []
    for run in range(150):
        evidence = Detector(reference).update(draw(reference, 500, 40, run))
        hits = np.flatnonzero(evidence >= np.log10(bound))
        times.append(hits[0] + 1 if len(hits) else 500)

    assert np.mean(times) > bound


def test_a_shift_is_found_and_its_size_says_how_soon() -> None:
    reference, _ = ordered(floor=0.0)
    limit = np.log10(86_400 * 30)
    found = []
    for size in (0.25, 0.5, 1.0):
        detector = Detector(reference)
        assert detector.update(draw(reference, 300, 20, 1)).max() < limit
        evidence = detector.update(draw(reference, 300, 20, 2, shifted(reference, size)))
        found.append(int(np.flatnonzero(evidence > limit)[0]) * 20)

    assert found == sorted(found, reverse=True)
    assert found[0] < 1_200


def test_a_shift_within_the_floor_is_let_be() -> None:
    weights = shifted(ordered()[0], 0.15)
    limit = np.log10(86_400 * 30)
    for floor, is_found in ((0.04, False), (0.0, True)):
        reference, _ = ordered(floor=floor)
        evidence = Detector(reference).update(draw(reference, 3_000, 200, 9, weights))
        assert (evidence[-1] > limit) == is_found


def test_a_category_and_unseen_values_are_found() -> None:
    reference = categorical()
    places = {name: i for i, (name, _) in enumerate(reference.cells)}
    for name in ("c", "missing", "other"):
        counts = draw(reference, 200, 20, 3)
        counts[places[name]] += 2
        assert Detector(reference).update(counts)[-1] > 7


def test_the_same_counts_give_the_same_evidence_to_the_last_bit_however_they_are_read() -> None:
    reference, _ = ordered(dispersion=2.3)
    counts = draw(reference, 500, 30, 4)
    whole = Detector(reference)
    once = whole.update(counts)
    parts = Detector(reference)
    pieces = [parts.update(piece) for piece in np.split(counts, [1, 2, 60, 317], axis=1)]

    assert np.array_equal(once, np.concatenate(pieces))
    assert whole.num_samples == parts.num_samples == counts.sum()


def test_it_forgets_what_is_older_than_two_chains() -> None:
    reference, _ = ordered()
    old, new = Detector(reference), Detector(reference)
    old.update(draw(reference, 100, 20, 5, shifted(reference, 1)))
    for detector in (old, new):
        detector.rotate()
        detector.rotate()
    counts = draw(reference, 50, 20, 6)

    assert np.array_equal(old.update(counts), new.update(counts))
    assert old.num_samples == new.num_samples == counts.sum()


def test_minutes_without_traffic_change_nothing() -> None:
    reference, _ = ordered()
    detector = Detector(reference)
    before = detector.update(draw(reference, 10, 20, 7))[-1]

    assert (detector.update(np.zeros((len(reference.cells), 100), np.int64)) == before).all()


def test_a_new_dispersion_goes_on_and_another_profile_starts_anew() -> None:
    reference, shares = ordered()
    detector = Detector(reference)
    before = detector.update(draw(reference, 50, 20, 8, shifted(reference, 1)))[-1]
    detector.renew(Reference(shares=shares, num_samples=50_000, dispersion=3))
    silent = np.zeros((len(reference.cells), 1), np.int64)
    assert detector.update(silent)[0] == before

    detector.renew(categorical())
    assert detector.update(np.zeros((len(categorical().cells), 1), np.int64))[0] == -np.inf
