"""Who answers a request: what its route chooses, or the version that it names, and who comes after that one fails."""

import logging
import random
import time
from collections.abc import Awaitable, Callable

from contract.schema import ClassificationPostprocess
from gateway.call import MAX_PRIORITY, Ask, Call
from gateway.catalog import Catalog, Served, newest
from gateway.coalesce import Inference
from gateway.error import DeadlineExceeded, UnknownModel, UpstreamError, UpstreamRefused, UpstreamUnavailable
from gateway.metric import OTHER, Metrics, VersionSeries
from gateway.route import Choice, Target
from gateway.route_file import RouteFile
from gateway.shadow import Answer, Shadow

log = logging.getLogger(__name__)

Attempt = Callable[[Call, float], Awaitable[Inference]]  # of a call, until a deadline in monotonic seconds


class Routing:
    """Finds who serves a request among a catalog's versions, and asks them in turn, as the routes say."""

    def __init__(
        self, catalog: Catalog, routes: RouteFile, shadow: Shadow, metrics: Metrics, *, shadow_timeout_s: float
    ) -> None:
        self._catalog = catalog
        self._routes = routes
        self._shadow = shadow
        self._metrics = metrics
        self._shadow_timeout_s = shadow_timeout_s

    def find(self, ask: Ask) -> tuple[Served, Choice | None]:
        """Who serves a request: what its route chose, or the version that it names."""
        choice = self._choose(ask, self._is_ready)
        if choice is None:
            return self._catalog.find(ask.name, ask.version), None
        for target in (choice.target, *choice.fallbacks):
            if self._is_ready(target):
                return self._target(target), choice
        return self._target(choice.target), choice

    def series_of(self, ask: Ask) -> VersionSeries:
        """The series of a request that nobody served: those of who should have, as far as that is known."""
        choice = self._choose(ask, lambda _: True)
        name, version = ask.name, ask.version
        if choice is not None:
            name, version = choice.target.model, None if choice.target.version is None else str(choice.target.version)
        versions = self._catalog.models().get(name)
        return self._metrics.series(name, version or (newest(versions) if versions else OTHER))

    def serve(self, call: Call, ask: Attempt) -> Awaitable[Inference]:
        """Ask whoever serves the call, as its route says where it has one."""
        return self._ask_newest(call, ask) if call.choice is None else self._ask_routed(call, call.choice, ask)

    def _choose(self, ask: Ask, ready: Callable[[Target], bool]) -> Choice | None:
        return self._routes.table.choose(ask.name, ask.version, ask.headers, ready=ready, random=random.random)

    async def _ask_routed(self, call: Call, choice: Choice, ask: Attempt) -> Inference:
        """Ask the call's target, and those it falls back to when that fails or takes too long; offer a shadow copy.

        A target that goes away meanwhile is followed by another one of the route's.
        """
        inference = await self._ask_in_turn(call, choice, ask)
        if choice.shadow is not None:
            self._offer_shadow(call, choice, inference, ask)
        return inference

    async def _ask_newest(self, call: Call, ask: Attempt) -> Inference:
        """Ask the call's version; should it go away meanwhile, and the client not have named it, the one after it."""
        try:
            return await ask(call, call.deadline)
        except UpstreamUnavailable:
            if call.ask.version is not None or not await self._has_gone(call):
                raise
            return await self._ask_successor(call, ask)

    async def _has_gone(self, call: Call) -> bool:
        """Whether the version that was to answer isn't served any more, as far as the catalog sees if it looks."""
        for looks in (True, False):
            try:
                if self._catalog.find(call.served.name, call.served.version) is not call.served:
                    return True
            except (UnknownModel, UpstreamUnavailable):
                return True
            if looks:
                await self._catalog.look(call.deadline)
        return False

    async def _ask_successor(self, call: Call, ask: Attempt) -> Inference:
        """Ask whoever serves such a request now."""
        call.served, call.choice = self.find(call.ask)
        return await ask(call, call.deadline)

    async def _ask_in_turn(self, call: Call, choice: Choice, ask: Attempt) -> Inference:
        fallbacks = [self._target(target) for target in choice.fallbacks if self._is_ready(target)]
        left = [served for served in dict.fromkeys(fallbacks) if served is not call.served]
        while True:
            deadline = call.deadline
            if left and choice.fallback_after_s is not None:
                deadline = min(deadline, time.monotonic() + choice.fallback_after_s)
            try:
                return await ask(call, deadline)
            except (UpstreamError, DeadlineExceeded) as exc:
                if not left and isinstance(exc, UpstreamUnavailable) and await self._has_gone(call):
                    return await self._ask_successor(call, ask)
                if not left or isinstance(exc, UpstreamRefused) or call.deadline <= time.monotonic():
                    raise
                call.mark("upstream")
                call.served = left.pop(0)
                log.debug("route %s falls back to %s/%s: %s", choice.route, call.served.name, call.served.version, exc)

    def _offer_shadow(self, call: Call, choice: Choice, inference: Inference, ask: Attempt) -> None:
        """Put a copy of an answered request to the route's shadow, with a call of its own."""
        assert choice.shadow is not None
        try:
            target = self._target(choice.shadow)
        except (UnknownModel, UpstreamUnavailable):
            return
        if target is call.served:  # a rule or a fallback had it answer already
            return

        async def ask_shadow() -> Answer:
            now = time.monotonic()
            copy = Call(call.ask, now, now + self._shadow_timeout_s, now, target, priority=MAX_PRIORITY)
            return _answer(target, await ask(copy, copy.deadline))

        self._shadow.offer(choice, _answer(call.served, inference), ask_shadow, request_id=call.ask.request_id)

    def _is_ready(self, target: Target) -> bool:
        try:
            self._target(target)
        except (UnknownModel, UpstreamUnavailable):
            return False
        return True

    def _target(self, target: Target) -> Served:
        return self._catalog.find(target.model, None if target.version is None else str(target.version))


def _answer(served: Served, inference: Inference) -> Answer:
    """What a shadow's answer is compared by; only classes have a first one."""
    contract = served.contract
    classifies = contract is not None and isinstance(contract.postprocess, ClassificationPostprocess)
    return Answer(inference.outputs, inference.meaning if classifies else None)
