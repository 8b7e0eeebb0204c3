"""One request's way in and out: the one place that takes and frees slots, and counts how requests end."""

import asyncio
import time
from types import TracebackType
from typing import TYPE_CHECKING

from gateway.call import Ask, Call
from gateway.error import DeadlineExceeded, ExpiredInQueue, Overloaded
from gateway.metric import VersionSeries
from gateway.outcome import OK, Outcome, outcome_of
from gateway.route import Choice

if TYPE_CHECKING:
    from gateway.catalog import Served
    from gateway.dataplane import DataPlane

_DEADLINE_SLACK_S = 0.01


class Admission:
    """The context of one call; `DataPlane.call` says what it does."""

    __slots__ = ("_ask", "_call", "_deadline", "_plane", "_series", "_served", "_span", "_started")

    def __init__(self, plane: "DataPlane", ask: Ask) -> None:
        self._plane = plane
        self._ask = ask
        self._call: Call | None = None
        self._served: Served | None = None  # who was to answer, and its series
        self._series: VersionSeries | None = None
        self._span = plane.journal.begin(ask)

    def __enter__(self) -> Call:
        plane, ask = self._plane, self._ask
        self._started = started = time.monotonic()
        limit_s = plane.settings.request_timeout_s
        self._deadline = started + (limit_s if ask.timeout_s is None else min(ask.timeout_s, limit_s))
        try:
            self._call = call = self._admit()
        except BaseException as exc:
            self.__exit__(type(exc), exc, None)
            raise
        return call

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None) -> None:
        plane, call, now = self._plane, self._call, time.monotonic()
        outcome = OK if exc is None else self._outcome(exc, now)
        if call is not None:
            assert self._series is not None
            plane.inflight -= 1
            self._series.inflight.num -= 1
            call.mark("postprocess", now)
            if call.served is not self._served:  # another took over
                self._series = plane.metrics.series(call.served.name, call.served.version)
        if plane.counting:
            if exc is None:
                self._count_answered()
            else:
                self._count_failed(outcome, exc, now - self._started)
        plane.journal.end(self._ask, call, self._span, outcome, exc, now - self._started)

    def _admit(self) -> Call:
        plane, ask = self._plane, self._ask
        served, choice = plane.routing.find(ask)
        if choice is not None and choice.deadline_s is not None:
            self._deadline = min(self._deadline, self._started + choice.deadline_s)
        self._served = served
        self._series = series = plane.metrics.series(served.name, served.version)
        if plane.inflight >= plane.settings.max_inflight:
            raise Overloaded(f"the gateway has {plane.inflight} requests in hand, its limit; try again in a second")
        plane.inflight += 1
        series.inflight.num += 1
        return Call(ask, self._started, self._deadline, self._started, served, choice, span=self._span)

    def _count_answered(self) -> None:
        call, series, ask = self._call, self._series, self._ask
        assert call is not None
        assert series is not None
        kind = "pinned" if ask.version else "latest"
        if call.choice is not None:
            kind = self._count_route(call, call.choice)
        series.answered[ask.protocol, kind].add(call.stages)

    def _count_failed(self, outcome: Outcome, exc: BaseException, took_s: float) -> None:
        call, ask = self._call, self._ask
        series = self._series or self._plane.routing.series_of(ask)
        if call is not None and call.choice is not None:
            self._count_route(call, call.choice)
        elif call is not None:
            series.unrouted["pinned" if ask.version else "latest"].inc()
        series.requests[ask.protocol][outcome.status].inc()
        if isinstance(exc, Overloaded):
            series.shed["capacity"].inc()
        elif isinstance(exc, ExpiredInQueue):
            series.shed["deadline"].inc()
        if outcome.status >= 500:  # a refusal is quick, and says nothing of how fast we serve
            series.duration[ask.protocol].observe(took_s)

    def _count_route(self, call: Call, choice: Choice) -> str:
        self._plane.metrics.routed(choice.route, call.served.label, _kind(call.served, choice))
        return "routed"

    def _outcome(self, exc: BaseException, now: float) -> Outcome:
        if isinstance(exc, asyncio.CancelledError) and now > self._deadline - _DEADLINE_SLACK_S:
            return outcome_of(DeadlineExceeded())  # gRPC cancels a call whose deadline passes
        return outcome_of(exc)


def _kind(served: "Served", choice: Choice) -> str:
    """How the route chose who served, for metrics."""
    target = choice.target
    chosen = served.name == target.model and target.version in (None, int(served.version))
    return choice.kind if chosen else "fallback"
