import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.case import Case
from bench.error import BenchError, LoadError, WrongAnswer
from bench.load import Figures, Shape
from bench.measure import agree, measure

ONE, MANY = Shape(connections=1), Shape(connections=64)


class Fake:
    """Writes down when it is asked; fails as it is told."""

    def __init__(self, id: str, log: list[str], error: BenchError | None = None) -> None:  # noqa: A002
        self.id, self.log, self.error = id, log, error

    def check(self) -> None:
        if isinstance(self.error, WrongAnswer):
            raise self.error

    def load(self, shape: Shape, duration_s: int) -> Figures:
        self.log.append(f"{self.id} {shape}")
        if self.error is not None and shape == MANY:
            raise self.error
        return Figures(answers_per_s=1, p50_ms=1, p99_ms=1, num_answers=100)


def case(kind: Fake) -> Case:
    return Case(model="tiny", kind=kind, shapes=(ONE, MANY))


def silent(_: str) -> None:
    pass


def test_kinds_take_turns_in_both_orders_after_a_warm_up() -> None:
    log: list[str] = []
    runs, failures = measure([case(Fake("triton-json", log)), case(Fake("mosec", log))], 2, 1, silent, settle_s=0)
    there, back = ["triton-json 1", "mosec 1"], ["mosec 1", "triton-json 1"]
    assert [entry for entry in log if entry.endswith(" 1")] == [*back, *there, *back]
    assert log.index("mosec 64") > log.index("triton-json 1")  # one load after the other
    assert len(runs) == 8
    assert failures == []


def test_a_load_that_fails_is_left_out_and_the_others_stay() -> None:
    log: list[str] = []
    cases = [case(Fake("triton-json", log)), case(Fake("mosec", log, LoadError("it fell over")))]
    runs, failures = measure(cases, 2, 1, silent, settle_s=0)
    assert log.count("mosec 64") == 1
    assert [(failure.kind, failure.load, failure.reason) for failure in failures] == [("mosec", "64", "it fell over")]
    assert {(run.kind, run.connections) for run in runs} == {("triton-json", 1), ("triton-json", 64), ("mosec", 1)}


def test_a_wrong_answer_is_never_measured() -> None:
    log: list[str] = []
    runs, failures = measure([case(Fake("mosec", log, WrongAnswer("no")))], 1, 1, silent, settle_s=0)
    assert (log, runs) == ([], [])
    assert [failure.load for failure in failures] == ["1", "64"]


def test_answers_that_the_server_never_gave_are_no_figures() -> None:
    one = Case(model="tiny", kind=Fake("triton-grpc", []), shapes=(ONE,), served=lambda: 7)  # it never moves
    runs, failures = measure([one], 1, 1, silent, settle_s=0)
    assert runs == []
    assert [failure.reason for failure in failures] == ["100 answers came, but 0 samples were inferred"]


@given(st.integers(0, 10**6), st.integers(0, 64))
def test_what_was_in_flight_at_the_end_may_be_missing(num: int, in_flight: int) -> None:
    assert agree(num, num + in_flight, in_flight)
    assert agree(num + in_flight, num, in_flight)


@pytest.mark.parametrize(("answers", "served"), [(1000, 0), (0, 1000), (10_000, 9_000)])
def test_counts_of_other_requests_do_not_agree(answers: int, served: int) -> None:
    assert not agree(answers, served, 16)
