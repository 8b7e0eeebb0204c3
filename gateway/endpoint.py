"""One inference server as the balancer knows it: whether it is there, what it has ready, and how its models do.

A breaker for each version: a broken model takes no server away from the others.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from gateway.budget import Breaker, Ejection, State
from gateway.error import DeadlineExceeded, UpstreamError, UpstreamFailed, UpstreamUnavailable
from gateway.upstream import IndexEntry, Upstream

log = logging.getLogger(__name__)

Key = tuple[str, str]  # model name and version; "" for any
Check = asyncio.Task[UpstreamError | DeadlineExceeded | None]

_MAX_SILENCES = 2  # indexes not answered in time, in a row: one may be a busy machine's


class Endpoint:
    """One server: what it said it has ready, how its models do, and the calls it has in hand."""

    def __init__(self, address: str, upstream: Upstream, ejection: Ejection, jitter: Callable[[], float]) -> None:
        self.address = address
        self.upstream = upstream
        self.up = False
        self.index: Sequence[IndexEntry] = ()
        self.ready: set[Key] = set()
        self.breakers: dict[Key, Breaker] = {}  # of versions whose last call failed
        self.pending = 0
        self.turn = 0
        self.ejections = 0
        self.leaving = False
        self.check: Check | None = None
        self._ejection = ejection
        self._jitter = jitter
        self._silences = 0

    def takes(self, key: Key, now: float) -> bool:
        """Whether a call may be sent here."""
        if not self.up or key not in self.ready:
            return False
        breaker = self.breakers.get(key)
        return breaker is None or breaker.allows(now)

    def answers(self, key: Key) -> bool:
        """Whether a call sent here would at least be answered, by an error."""
        return self.up and key in self.ready and key in self.breakers and self.breakers[key].answered

    def succeeded(self, key: Key, sent: float) -> None:
        """Learn that a call was answered as it should be."""
        if self.breakers and key in self.breakers and self.breakers[key].closes(sent):
            del self.breakers[key]

    def failed(self, key: Key, sent: float, now: float, error: UpstreamError | DeadlineExceeded) -> None:
        """Learn that a call failed, and that it wasn't the call's fault."""
        breaker = self.breakers.setdefault(key, Breaker(self._ejection, self._jitter))
        lost = isinstance(error, UpstreamUnavailable) and error.lost
        if breaker.fail(now, sent, answered=isinstance(error, UpstreamFailed), lost=lost):
            self.ejections += 1
            log.warning("inference server %s is spared calls of %s/%s: %s", self.address, *key, error)
        if isinstance(error, UpstreamUnavailable) and error.unsent and not error.lost:
            self.ready.discard(key)  # it lost the model, or isn't there itself: it will be asked which

    def state(self, now: float) -> State:
        """The worst state of its models' breakers; open while it is away."""
        if not self.up:
            return State.OPEN
        return max((breaker.state(now) for breaker in list(self.breakers.values())), default=State.CLOSED)

    async def ask(self, timeout_s: float) -> UpstreamError | DeadlineExceeded | None:
        """Have it say what it has ready; returns why it didn't."""
        try:
            async with asyncio.timeout(timeout_s):
                index = await self._index(timeout_s)
        except UpstreamFailed as exc:  # it is there, but can't read its repository: what it has in memory it serves
            self._arrive()
            return exc
        except (TimeoutError, DeadlineExceeded):
            self._silences += 1
            if self._silences >= _MAX_SILENCES:
                self._go_away("it doesn't answer in time")
            return DeadlineExceeded("the inference server did not answer in time")
        except UpstreamError as exc:
            self._go_away(str(exc))
            return exc
        self._arrive()
        self.index = index
        versions = {(entry.name, entry.version) for entry in index if entry.ready}
        self.ready = versions | {(name, "") for name, _ in versions} | {("", "")}
        self.breakers = {key: breaker for key, breaker in self.breakers.items() if key in self.ready}
        return None

    async def _index(self, timeout_s: float) -> Sequence[IndexEntry]:
        try:
            return await self.upstream.index(timeout_s)
        except UpstreamUnavailable as exc:
            if not self.up:
                raise
            log.info("inference server %s is asked once more: %s", self.address, exc.__cause__ or exc)
            return await self.upstream.index(timeout_s)  # perhaps only a connection was lost: a new one tells

    def _arrive(self) -> None:
        self._silences = 0
        if not self.up:
            log.info("inference server %s is up", self.address)
            self.up = True
            self.breakers = {}  # how its models did before it went away says nothing of how they do now

    def _go_away(self, reason: str) -> None:
        if self.up:
            log.warning("inference server %s is down: %s", self.address, reason)
            self.up = False
            self.ejections += 1
