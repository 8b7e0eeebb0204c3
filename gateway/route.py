"""Routes: who serves a name. What `routes.yaml` may say, and the choice for one request.

A route splits its requests over targets by weight (canary), by rules over headers or tenants (A/B), or so that one key
always comes to the same target (sticky). Sticky targets are found by weighted rendezvous hashing (Schindelhauer and
Schomaker, "Weighted Distributed Hash Tables", 2005): every target scores `-weight / ln(hash of key and target)`, the
highest score wins. It needs no memory, and a changed weight moves only the keys that it must.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from operator import itemgetter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from contract.document import Document
from gateway.call import MAX_PRIORITY
from gateway.route_text import read, wrong

Kind = Literal["weight", "rule", "sticky"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
HeaderName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$"), AfterValidator(str.lower)
]
HeaderValue = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Milliseconds = Annotated[float, Field(strict=True, gt=0, le=3_600_000)]
Headers = Mapping[str, str]


class Target(Document):
    """A version of a model; without `version` the newest one that is served."""

    model: Name
    version: Annotated[int, Field(strict=True, ge=1, lt=2**63)] | None = None

    @property
    def label(self) -> str:
        """How metrics and people name it."""
        return f"{self.model}/{self.version or 'newest'}"


class WeightedTarget(Target):
    """A target and its share, as a part of the sum of all weights."""

    weight: Annotated[float, Field(strict=True, ge=0, le=1_000_000)] = 1


class ShadowTarget(Target):
    """A target that gets copies of a share of the requests; its answers are compared and thrown away.

    Floating-point outputs agree within `atol + rtol * |primary|`, all others when they are equal.
    """

    fraction: Annotated[float, Field(strict=True, ge=0, le=1)]
    max_inflight: Annotated[int, Field(strict=True, ge=1, le=1024)] = 16
    deadline_ms: Milliseconds = 10_000
    rtol: Annotated[float, Field(strict=True, ge=0)] = 1e-3
    atol: Annotated[float, Field(strict=True, ge=0)] = 1e-3


class Sticky(Document):
    """What requests are kept together by: the value of a header, or the tenant. Without it, weights decide."""

    header: HeaderName | None = None
    tenant: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        _expect_one(self, "header", "tenant")
        return self


class Condition(Document):
    """One header that `equals` one of some values, begins with `prefix` or is `present`; or one of some tenants."""

    header: HeaderName | None = None
    equals: Annotated[tuple[HeaderValue, ...], Field(min_length=1)] | None = None
    prefix: HeaderValue | None = None
    present: Annotated[bool, Field(strict=True)] | None = None
    tenant: Annotated[tuple[HeaderValue, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        _expect_one(self, "header", "tenant")
        if self.header is not None:
            _expect_one(self, "equals", "prefix", "present")
        elif set(self.model_fields_set) > {"tenant"}:
            raise wrong("'equals', 'prefix' and 'present' belong to a header, not to 'tenant'")
        return self

    def holds(self, headers: Headers, tenant_header: str) -> bool:
        """Whether a request with these headers meets the condition."""
        value = headers.get(self.header or tenant_header)
        if self.present is not None:
            return (value is not None) is self.present
        if value is None:
            return False
        if self.prefix is not None:
            return value.startswith(self.prefix)
        return value in (self.tenant or self.equals or ())


def _distinct(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    labels: list[str] = []
    for number, target in enumerate(targets):
        if target.label in labels:
            raise wrong(f"{target.label} is there twice; write each target once", number)
        labels.append(target.label)
    return targets


def _some_weight(targets: tuple[WeightedTarget, ...]) -> tuple[WeightedTarget, ...]:
    if not any(target.weight for target in targets):
        raise wrong("expected a weight above 0 for at least one target, got none")
    return targets


class Split(Document):
    """What a route and a rule of it have in common. A rule takes from its route what it doesn't say itself."""

    targets: Annotated[
        tuple[WeightedTarget, ...], Field(min_length=1), AfterValidator(_distinct), AfterValidator(_some_weight)
    ]
    sticky: Sticky | None = None
    deadline_ms: Milliseconds | None = None
    priority: Annotated[int, Field(strict=True, ge=1, le=MAX_PRIORITY)] | None = None


class Rule(Split):
    """Where the requests go that meet a condition."""

    when: Condition


class Fallback(Document):
    """Who is asked next, in this order, when the chosen target fails, or hasn't answered after `after_ms`."""

    targets: Annotated[tuple[Target, ...], Field(min_length=1), AfterValidator(_distinct)]
    after_ms: Milliseconds | None = None


class Route(Split):
    """A public name and who serves it. It takes the name over when a model has it too."""

    name: Name
    rules: tuple[Rule, ...] = ()
    shadow: ShadowTarget | None = None
    fallback: Fallback | None = None

    @model_validator(mode="after")
    def _fallback_in_time(self) -> Self:
        after_ms = self.fallback.after_ms if self.fallback is not None else None
        for deadline_ms in (self.deadline_ms, *(rule.deadline_ms for rule in self.rules)):
            if after_ms is not None and deadline_ms is not None and after_ms >= deadline_ms:
                raise wrong(
                    f"expected less than the deadline of {deadline_ms:g} ms, got {after_ms:g}", "fallback", "after_ms"
                )
        return self


def _distinct_names(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    names: list[str] = []
    for number, route in enumerate(routes):
        if route.name in names:
            raise wrong(f"routes[{names.index(route.name)}] has the name {route.name!r} already", number, "name")
        names.append(route.name)
    return routes


class Routes(Document):
    """The whole of `routes.yaml`."""

    tenant_header: HeaderName = "x-tenant"
    routes: Annotated[tuple[Route, ...], AfterValidator(_distinct_names)] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Who serves one request, and how. `shadow` is there when this request is one of its sample."""

    route: str
    target: Target
    kind: Kind
    fallbacks: tuple[Target, ...]  # in order; never the chosen target itself
    fallback_after_s: float | None
    shadow: ShadowTarget | None
    deadline_s: float | None
    priority: int  # 0 is the model's default


class RouteTable:
    """The routes of one document. It never changes."""

    def __init__(self, document: Routes | None = None) -> None:
        self.document = document or Routes()
        self._plans = {route.name: _Plan(route, self.document.tenant_header) for route in self.document.routes}

    @classmethod
    def parse(cls, text: str) -> "RouteTable":
        """The table of a `routes.yaml`; raises RouteError."""
        return cls(read(text, Routes))

    def choose(
        self,
        name: str,
        version: str | None,
        headers: Callable[[], Headers],
        *,
        ready: Callable[[Target], bool],
        random: Callable[[], float],
    ) -> Choice | None:
        """Who serves a request for `name`; None when no route does, as none does for a request that pins a version.

        `headers` gives lower-case names, and is called only where a rule or stickiness reads them. While some targets
        are `ready`, those that aren't are left out; when none is, the choice is made as if all were. `random` gives
        numbers in `[0, 1)`.
        """
        plan = self._plans.get(name)
        if plan is None or version:
            return None
        return plan.choose(headers, ready, random)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `routes.yaml`."""
    schema = Routes.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.loads(json.dumps(schema))  # type: ignore[no-any-return]


class _Plan:
    """A route made ready to choose by."""

    def __init__(self, route: Route, tenant_header: str) -> None:
        self._route = route
        self._tenant_header = tenant_header
        self._split = _Draw(route, route, tenant_header)
        self._rules = [(rule.when, _Draw(route, rule, tenant_header)) for rule in route.rules]
        self._reads_headers = bool(self._rules) or self._split.key_header is not None
        after_ms = route.fallback.after_ms if route.fallback is not None else None
        self._fallback_after_s = None if after_ms is None else after_ms / 1000

    def choose(
        self, headers: Callable[[], Headers], ready: Callable[[Target], bool], random: Callable[[], float]
    ) -> Choice:
        draw, key = self._split, None
        kind: Kind = "weight"
        if self._reads_headers:
            given = headers()
            for condition, rule in self._rules:
                if condition.holds(given, self._tenant_header):
                    draw, kind = rule, "rule"
                    break
            key = None if draw.key_header is None else given.get(draw.key_header)
        if key and kind == "weight":
            kind = "sticky"
        target = draw.by_key(key, ready) if key else draw.by_weight(random, ready)
        shadow = self._route.shadow
        return Choice(
            route=self._route.name,
            target=target,
            kind=kind,
            fallbacks=draw.fallbacks[target.label],
            fallback_after_s=self._fallback_after_s,
            shadow=shadow if shadow is not None and random() < shadow.fraction else None,
            deadline_s=draw.deadline_s,
            priority=draw.priority,
        )


class _Draw:
    """The targets of a route or of one of its rules, with how they are drawn from."""

    def __init__(self, route: Route, split: Split, tenant_header: str) -> None:
        sticky = split.sticky or route.sticky
        deadline_ms = split.deadline_ms or route.deadline_ms
        fallbacks = route.fallback.targets if route.fallback is not None else ()
        self.key_header = None if sticky is None else sticky.header or tenant_header
        self.deadline_s = None if deadline_ms is None else deadline_ms / 1000
        self.priority = split.priority or route.priority or 0
        self._targets = [target for target in split.targets if target.weight > 0]
        self._bounds = list(accumulate(target.weight for target in self._targets))
        # The route's name is hashed too, so that a key's place in one route says nothing of its place in another.
        self._hashes = [blake2b(f"{route.name}\0{target.label}\0".encode()) for target in self._targets]
        self.fallbacks = {
            target.label: tuple(other for other in fallbacks if other.label != target.label) for target in self._targets
        }

    def by_weight(self, random: Callable[[], float], ready: Callable[[Target], bool]) -> Target:
        target = self._targets[_draw(self._bounds, random())]
        if ready(target):
            return target
        # Drawing again among the others gives each the share that it would have had without this one.
        others = [other for other in self._targets if other is not target and ready(other)]
        if not others:
            return target
        return others[_draw(list(accumulate(other.weight for other in others)), random())]

    def by_key(self, key: str, ready: Callable[[Target], bool]) -> Target:
        data = key.encode("utf-8", "replace")
        scored = [
            (_score(target.weight, hashed, data), target)
            for target, hashed in zip(self._targets, self._hashes, strict=True)
        ]
        ranked = [target for _, target in sorted(scored, key=itemgetter(0), reverse=True)]
        return next(filter(ready, ranked), ranked[0])


def _score(weight: float, hashed: blake2b, data: bytes) -> float:
    hashed = hashed.copy()
    hashed.update(data)
    share = ((int.from_bytes(hashed.digest()[:8]) >> 12) + 0.5) / 2**52  # between 0 and 1, and never either
    return -weight / math.log(share)


def _draw(bounds: Sequence[float], point: float) -> int:
    return bisect_right(bounds, point * bounds[-1], 0, len(bounds) - 1)


def _expect_one(document: Document, *names: str) -> None:
    given = [name for name in names if getattr(document, name) is not None]
    if len(given) != 1:
        expected = ", ".join(f"'{name}'" for name in names)
        raise wrong(f"expected exactly one of {expected}, got {' and '.join(given) or 'none'}")
