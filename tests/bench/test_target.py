from collections.abc import Callable

import pytest

from bench.result import Cell, Result, Soak
from bench.target import targets

MakeResult = Callable[..., Result]
MakeCell = Callable[..., Cell]


def test_without_figures_nothing_is_met_and_nothing_is_missed() -> None:
    found = targets(None, None)
    assert len(found) == 11
    assert {(target.measured, target.met) for target in found} == {(None, None)}


@pytest.mark.parametrize(("rates", "met"), [([100.0, 120.0, 90.0], True), ([99.0, 120.0, 90.0], False)])
def test_the_median_decides(make_result: MakeResult, cell: MakeCell, rates: list[float], met: bool) -> None:
    result = make_result({cell("gateway-json"): rates, cell("triton-json"): [100.0] * 3})
    assert targets(result, None)[0].met is met


def test_a_latency_may_be_at_most_so_much(make_result: MakeResult, cell: MakeCell) -> None:
    for rate, met in ((40.0, True), (39.0, False)):  # p50 is the reciprocal: 2.5 times that of 100 a second
        result = make_result({cell("gateway-json", 1): [rate], cell("triton-json", 1): [100.0]})
        (latency,) = (target for target in targets(result, None) if "p50" in target.text)
        assert latency.met is met


def test_both_ways_to_have_64_calls_in_flight_are_targets(make_result: MakeResult, cell: MakeCell) -> None:
    measured = {cell("gateway-grpc", *at): [rate] for at, rate in (((64, 1), 70.0), ((1, 64), 69.0))}
    measured |= {cell("triton-grpc", *at): [100.0] for at in ((64, 1), (1, 64))}
    grpc = [target.met for target in targets(make_result(measured), None) if "gRPC" in target.text]
    assert grpc == [True, False]


def test_photographs_are_held_against_the_better_loop(make_result: MakeResult, cell: MakeCell) -> None:
    result = make_result(
        {
            cell("gateway-predict", model="photo"): [90.0],
            cell("loop-one", 1, model="photo"): [100.0],
            cell("loop-all", 1, model="photo"): [80.0],
        }
    )
    (jpeg,) = (target for target in targets(result, None) if "JPEG" in target.text)
    assert jpeg.measured == (0.9, 0.9, 0.9)
    assert jpeg.met


def test_memory_must_be_small_and_flat(steady: Soak) -> None:
    assert [target.met for target in targets(None, steady)[-2:]] == [True, True]
    growing = steady.model_copy(update={"samples": ((0, 150.0), (10, 190.0), (20, 170.0))})
    size, growth = targets(None, growing)[-2:]
    assert (size.met, growth.met) == (False, False)
    assert size.measured is not None
    assert size.measured.median == 190.0  # the most that was seen, not the last
