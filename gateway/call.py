"""One request in hand: what was asked for, who serves it, how long it has, and where its time went."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.error import DeadlineExceeded
from gateway.metric import STAGES

if TYPE_CHECKING:
    from contract.place import Places
    from gateway.catalog import Served
    from gateway.route import Choice
    from gateway.trace import Span

MAX_PRIORITY = 9  # the least urgent of Triton's levels that a request may name; 0 is the model's default

_NUMBER = {stage: number for number, stage in enumerate(STAGES)}
_QUEUE, _UPSTREAM = _NUMBER["queue"], _NUMBER["upstream"]


def _nothing() -> Mapping[str, str]:
    return {}


@dataclass(slots=True)  # not frozen: that would make it three times as dear, and there is one for each request
class Ask:
    """What a client asks for, whatever protocol it came by.

    `headers` gives the request's headers (gRPC: metadata) with lower-case names; it is a function because few requests
    need them.
    """

    protocol: str
    name: str
    version: str | None = None
    timeout_s: float | None = None
    request_id: str = ""
    client: str | None = None
    key: str | None = None  # whose API key it came with
    headers: Callable[[], Mapping[str, str]] = _nothing


@dataclass(slots=True)
class Call:
    """One request in hand. Times are monotonic seconds; `stages` holds seconds by the order of `STAGES`.

    `places` are its items as they were sent, from the preprocessing of who serves it.
    """

    ask: Ask
    started: float
    deadline: float
    marked: float
    served: "Served"
    choice: "Choice | None" = None
    priority: int = 0  # Triton's priority level; 0 is the model's default
    batch_samples: int = 0
    span: "Span | None" = None
    places: "Places" = ()
    stages: list[float] = field(default_factory=lambda: [0.0] * len(STAGES))

    def __post_init__(self) -> None:
        if self.choice is not None:
            self.priority = self.choice.priority

    @property
    def remaining_s(self) -> float:
        """Time left; DeadlineExceeded when there is none."""
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded("the request's time was up before the model was asked")
        return remaining

    def limit(self, timeout_s: float) -> None:
        """Give the request no more than that much time, from its start on."""
        self.deadline = min(self.deadline, self.started + timeout_s)

    def mark(self, stage: str, now: float | None = None) -> None:
        """End a stage: it took all the time since the last mark. The stages so add up to the whole request."""
        if now is None:
            now = time.monotonic()
        self.stages[_NUMBER[stage]] += now - self.marked
        self.marked = now

    def mark_inference(self, upstream_s: float) -> None:
        """Divide the time since the last mark into waiting for a batch and the call to Triton."""
        now = time.monotonic()
        waited, self.marked = now - self.marked, now
        upstream_s = min(upstream_s, waited)
        self.stages[_QUEUE] += waited - upstream_s
        self.stages[_UPSTREAM] += upstream_s
