from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from contract.profile import categorical_feature, ordered_feature
from gateway.reservoir import MAX_BINS, MAX_EXAMPLES, MAX_INPUT_BYTES, PERIOD_S, Reservoir

NUMBERS = np.random.default_rng(0).normal(size=2_000)
FEATURES = (
    ordered_feature("x", NUMBERS),
    categorical_feature("c", ["a", "b"] * 1_000, ["a", "b"]),
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def reservoir(clock: Clock | None = None, *, keep_inputs: bool = True, seed: int = 0) -> Reservoir:
    return Reservoir(FEATURES, keep_inputs=keep_inputs, clock=clock or Clock(), random=np.random.default_rng(seed))


def offer(kept: Reservoir, values: NDArray[np.float64], first: int = 0) -> None:
    assigned = {"x": FEATURES[0].assign(values), "c": np.zeros(len(values), np.intp)}
    kept.offer(assigned, {"input": values[:, None]}, [f"r{first + i}" for i in range(len(values))])


def test_traffic_like_the_reference_is_not_kept() -> None:
    kept = reservoir()
    offer(kept, np.random.default_rng(1).normal(size=5_000))

    assert kept.examples("x") == []


def test_what_fills_a_bin_is_kept_with_its_request_and_its_input() -> None:
    kept = reservoir()
    offer(kept, np.full(50, 9.0))

    examples = kept.examples("x")
    assert len(examples) == MAX_EXAMPLES
    assert {example["bin"] for example in examples} == {"19"}
    assert {example["inputs"]["input"]["data"][0] for example in examples} == {9.0}
    assert all(example["bins"] == {"x": "19", "c": "a"} for example in examples)
    assert {example["request_id"] for example in examples} <= {f"r{i}" for i in range(50)}
    assert kept.examples("c")[0]["bin"] == "a"


def test_inputs_are_kept_only_when_asked_for_and_small() -> None:
    without = reservoir(keep_inputs=False)
    offer(without, np.full(50, 9.0))
    assert {len(example["inputs"]) for example in without.examples("x")} == {0}

    large = reservoir()
    size = MAX_INPUT_BYTES // 8 + 1
    large.offer({"x": np.full(50, 1, np.intp)}, {"input": np.zeros((50, size))}, ["r"] * 50)
    assert {len(example["inputs"]) for example in large.examples("x")} == {0}


def test_every_request_has_the_same_chance() -> None:
    seen: Counter[str] = Counter()
    for seed in range(400):
        kept = reservoir(seed=seed)
        for start in range(0, 60, 20):  # the first twenty make the bin too full
            offer(kept, np.full(20, 9.0), start)
        seen.update(example["request_id"] for example in kept.examples("x"))

    counts = np.array([seen[f"r{i}"] for i in range(60)])
    expected = 400 * MAX_EXAMPLES / 60
    assert ((counts - expected) ** 2 / expected).sum() < 100  # chi-square with 59 degrees: p = 0.0007


def test_nothing_outlives_two_periods() -> None:
    clock = Clock()
    kept = reservoir(clock)
    offer(kept, np.full(50, 9.0))
    clock.now += PERIOD_S
    assert len(kept.examples("x")) == MAX_EXAMPLES
    clock.now += PERIOD_S
    assert kept.examples("x") == []
    offer(kept, np.full(50, 9.0))
    clock.now += 5 * PERIOD_S
    assert kept.examples("x") == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([-9.0, 0.0, 0.5, 9.0, float("nan")]), min_size=1, max_size=300), st.integers(1, 5))
def test_it_is_bounded_whatever_comes(values: list[float], times: int) -> None:
    kept = reservoir()
    for _ in range(times):
        offer(kept, np.array(values))

    per_bin = Counter(example["bin"] for example in kept.examples("x"))
    assert all(number <= MAX_EXAMPLES for number in per_bin.values())
    assert len(per_bin) <= MAX_BINS
