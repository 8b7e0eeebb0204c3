from pathlib import Path

import numpy as np
import pytest

from bench.drift.library import LIBRARIES, SCRIPT, our_look, simulated
from bench.drift.measure import FAST_WAY, FLOORLESS_WAY, WINDOWS_WAY
from bench.drift.page import BEGIN, END, PICTURE, markdown, write_page
from bench.drift.result import Alarms, Delay, Evaluation, Look
from bench.drift.ruling import episodes
from bench.drift.traffic import Distribution, Model, Traffic, simulate

EVALUATION = Evaluation(
    alarms=(
        Alarms(traffic="calm", way=WINDOWS_WAY, alarms=0, months=2, seconds=1),
        Alarms(traffic="wild", way=FAST_WAY, alarms=4, months=2, seconds=1),
    ),
    delays=tuple(
        Delay(shift="location", way=way, rate=100, samples=samples, limit=180_000)
        for way, samples in (
            (WINDOWS_WAY, (100.0, 300.0, None)),
            (FAST_WAY, (None, None, 1.0)),
            (FLOORLESS_WAY, (1.0,)),
        )
    ),
    looks=(
        Look(way="a", version="1", data="d", num_samples=9, looks=4, flagged=1, found=2, seconds_a_look=0.5, note="n"),
    ),
    failures=("b: no wheel",),
)


def test_the_tables_say_what_was_measured_and_what_was_not() -> None:
    text = markdown(EVALUATION)

    assert "| calm | windows | 0 | 0 to 1.8 | 2 |" in text  # exact bounds of no event: 3.69 in two months
    assert "| wild | fast lane | 2 | 0.54 to 5.1 | 2 |" in text
    assert "| rate | shift | windows | fast lane | fast lane, floor 0 |" in text
    assert "| 100/min | location | 300 (2 of 3 found) | over 180,000 (1 of 3 found) | 1 |" in text
    assert "| d (n) | 25% (50%) |" in text
    assert "Not measured: b: no wheel." in text


def test_the_words_around_the_tables_stay(tmp_path: Path) -> None:
    (tmp_path / "drift.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        write_page(EVALUATION, tmp_path)

    text = (tmp_path / "drift.md").read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("### Samples from a shift") == 1
    assert PICTURE in text
    assert (tmp_path / PICTURE).stat().st_size > 1_000


def test_what_was_measured_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run" / "drift.json"
    assert Evaluation.load(path) == Evaluation()
    EVALUATION.save(path)
    assert Evaluation.load(path) == EVALUATION


@pytest.mark.parametrize("session", [1.0, 2.0, 4.0])
def test_simulated_sessions_have_their_dispersion(session: float) -> None:
    """The variance of a bin's count over its mean is 2 s - 1 for geometric sessions of mean s."""
    model = Model.draw(np.random.default_rng(0), 2_000, ordered=1, categorical=0)
    (counts,) = simulate(model, Traffic(rate=50, session=session), 6_000, np.random.default_rng(1))

    middle = counts[8:14]
    assert (middle.var(axis=1) / middle.mean(axis=1)).mean() == pytest.approx(2 * session - 1, rel=0.06)


def test_a_simulated_shift_is_that_shift() -> None:
    model = Model.draw(np.random.default_rng(0), 50_000, ordered=1, categorical=0)
    traffic = Traffic(rate=500, shifted=Distribution(location=0.5, scale=1.2), shift_at=100)
    (counts,) = simulate(model, traffic, 200, np.random.default_rng(1))
    edges = np.array(model.features[0].edges)

    for minutes, location, scale in ((slice(0, 100), 0, 1), (slice(100, 200), 0.5, 1.2)):
        shares = counts[:-1, minutes].sum(axis=1) / counts[:, minutes].sum()
        drawn = np.random.default_rng(2).normal(location, scale, 200_000)
        expected = np.bincount(np.searchsorted(edges, drawn, side="right"), minlength=len(shares)) / 200_000
        assert np.abs(shares - expected).max() < 0.01


def test_episodes_are_beginnings() -> None:
    active = np.array([1, 1, 0, 0, 1, 1, 0, 1], bool)

    assert [episodes(active, start) for start in (0, 1, 3, 5)] == [3, 2, 2, 1]


def test_one_look_by_our_rules_finds_a_large_shift_and_nothing_without() -> None:
    sets = {data.name: data for data in simulated(2, seed=0)}
    assert our_look(sets["no shift"]).flagged == 0
    found = our_look(sets["variance x 1.5"])
    assert (found.looks, found.num_samples) == (2, 600)
    assert found.found is not None


def test_every_library_has_its_look_in_the_script() -> None:
    text = SCRIPT.read_text(encoding="utf-8")

    assert all(f'"{name}": ' in text for name in LIBRARIES)
