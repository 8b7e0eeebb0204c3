"""How much failure may cost: retries in proportion to the calls, and a breaker that keeps calls from what fails.

Sources: "Addressing Cascading Failures" in Site Reliability Engineering (retry budgets); Envoy's outlier detection
(consecutive failures, ejection times that grow).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from math import inf


class RetryBudget:
    """Allows one retry for every `calls_per_retry` calls, and saves up `burst` of them at most.

    It starts empty, so that attempts never exceed `1 + 1 / calls_per_retry` times the calls.
    """

    def __init__(self, *, calls_per_retry: int = 10, burst: int = 10) -> None:
        if calls_per_retry < 1 or burst < 1:
            raise ValueError(f"expected calls_per_retry and burst of at least 1, got {calls_per_retry} and {burst}")
        self._price = calls_per_retry
        self._most = calls_per_retry * burst
        self._saved = 0
        self.spent = 0
        self.exhausted = 0

    def earn(self) -> None:
        """Count a call."""
        if self._saved < self._most:
            self._saved += 1

    def spend(self) -> bool:
        """Whether a call may be tried once more; counts it either way."""
        if self._saved < self._price:
            self.exhausted += 1
            return False
        self._saved -= self._price
        self.spent += 1
        return True


class State(IntEnum):
    """A breaker's state, as its metric shows it."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ejection:
    """After how many failures in a row a breaker opens, and for how long: doubling from `base_s` to `max_s`."""

    failures: int = 5
    base_s: float = 0.5
    max_s: float = 30.0

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 < self.base_s <= self.max_s:
            raise ValueError(f"expected failures >= 1 and 0 < base_s <= max_s, got {self}")

    def time_s(self, openings: int, jitter: float) -> float:
        """How long the breaker stays open that opened so often in a row. `jitter` in [0, 1) takes off up to half."""
        return min(self.base_s * 2.0 ** min(openings - 1, 64), self.max_s) * (1 - jitter / 2)


class Breaker:
    """Opens after failures in a row. Once its time is up it is half-open: one call at a time shows whether it closes.

    Times are monotonic seconds. A call is judged by when it was sent: what was sent before the breaker opened
    can't close it, and what was sent while it was open can't open it further. Calls in hand together when their
    connection is lost are one failure.
    """

    __slots__ = (
        "_failures",
        "_jitter",
        "_lost_at",
        "_opened_at",
        "_openings",
        "_policy",
        "_until",
        "answered",
        "probing",
    )

    def __init__(self, policy: Ejection, jitter: Callable[[], float]) -> None:
        self._policy = policy
        self._jitter = jitter
        self._failures = self._openings = 0
        self._lost_at = self._opened_at = self._until = -inf
        self.answered = False  # whether the last failure was an answer: the server is there, what it said is an error
        self.probing = False  # whether the one call is under way

    def state(self, now: float) -> State:
        """What calls meet."""
        if not self._openings:
            return State.CLOSED
        return State.OPEN if now < self._until else State.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether a call may be sent."""
        return not self._openings or (now >= self._until and not self.probing)

    def probe(self, now: float) -> bool:
        """Whether a call sent now is the one that shows whether it closes; it must unset `probing` when it ends."""
        if self.state(now) is not State.HALF_OPEN or self.probing:
            return False
        self.probing = True
        return True

    def closes(self, sent: float) -> bool:
        """Whether a success of a call sent then closes it, or ends a row of failures."""
        return sent > self._opened_at

    def fail(self, now: float, sent: float, *, answered: bool, lost: bool = False) -> bool:
        """Count a failure of a call sent then. Whether the breaker opened for it."""
        if sent < self._until or (lost and sent < self._lost_at):
            return False
        if lost:
            self._lost_at = now
        self._failures += 1
        self.answered = answered
        if not self._openings and self._failures < self._policy.failures:
            return False
        self._openings += 1
        self._opened_at = now
        self._until = now + self._policy.time_s(self._openings, self._jitter())
        return True
