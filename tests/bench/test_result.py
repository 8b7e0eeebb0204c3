from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.result import Cell, Result, Spread, answers_per_s, base_of, p50_ms

MakeResult = Callable[..., Result]
MakeCell = Callable[..., Cell]


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=9))
def test_the_median_lies_between_the_least_and_the_greatest(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.low == min(values) <= spread.median <= max(values) == spread.high


def test_ratios_are_taken_within_a_round(make_result: MakeResult, cell: MakeCell) -> None:
    # The machine was twice as slow in round 2: no ratio shows it.
    result = make_result({cell("gateway-json"): [50, 25, 60], cell("triton-json"): [100, 50, 100]})
    assert result.ratio(cell("gateway-json"), cell("triton-json"), answers_per_s) == (0.5, 0.5, 0.6)
    assert result.ratio(cell("gateway-json"), cell("triton-json"), p50_ms) == pytest.approx((2, 1 / 0.6, 2))


def test_only_rounds_that_have_both_count(make_result: MakeResult, cell: MakeCell) -> None:
    result = make_result({cell("gateway-json"): [50, 50], cell("triton-json"): [100]})
    assert result.ratio(cell("gateway-json"), cell("triton-json"), answers_per_s) == (0.5, 0.5, 0.5)
    assert result.ratio(cell("gateway-json"), cell("mosec"), answers_per_s) is None
    assert result.spread(cell("mosec"), answers_per_s) is None


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        ("gateway-json", "triton-json"),
        ("gateway-binary", "triton-binary"),
        ("gateway-grpc", "triton-grpc"),
        ("gateway-predict", "triton-json"),
        ("counted-json", "uncounted-json"),
        ("uncounted-json", "uncounted-json"),
        ("mosec", "triton-json"),
    ],
)
def test_each_is_compared_with_triton_asked_the_same_way(
    make_result: MakeResult, cell: MakeCell, kind: str, base: str
) -> None:
    result = make_result({cell(kind): [1.0]})
    assert base_of(result, cell(kind)) == cell(base)


def test_photographs_are_compared_with_the_better_loop(make_result: MakeResult, cell: MakeCell) -> None:
    asked = cell("gateway-predict", model="photo")
    one, all_ = cell("loop-one", 1, model="photo"), cell("loop-all", 1, model="photo")
    result = make_result({asked: [9, 9], one: [10, 11], all_: [5, 20]})
    assert base_of(result, asked) == all_  # 12.5 against 10.5


def test_cells_come_by_rising_load(make_result: MakeResult, cell: MakeCell) -> None:
    shuffled = [cell("triton-grpc", 1, 64), cell("triton-grpc", 64), cell("triton-grpc", 1), cell("mosec", 16)]
    result = make_result({key: [1.0] for key in shuffled})
    assert [str(c.shape) for c in result.cells("tiny")] == ["1", "16", "64", "1 x 64"]


def test_a_result_survives_its_file(make_result: MakeResult, cell: MakeCell) -> None:
    result = make_result({cell("mosec"): [1.5, 2.5]})
    assert Result.model_validate_json(result.model_dump_json()) == result
