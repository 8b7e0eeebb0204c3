"""The choice: by weight, by rule, by key, and around targets that aren't ready."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.route import Choice, Route, Routes, RouteTable, Target

CANARY = """
routes:
  - name: digits
    targets:
      - {model: digits, version: 3, weight: 95}
      - {model: digits, version: 4, weight: 5}
      - {model: digits, version: 5, weight: 0}
"""


def always(_: Target) -> bool:
    return True


def choose(
    table: RouteTable,
    name: str = "digits",
    headers: Mapping[str, str] | None = None,
    *,
    version: str | None = None,
    ready: Callable[[Target], bool] = always,
    point: float = 0.5,
) -> Choice | None:
    return table.choose(name, version, lambda: headers or {}, ready=ready, random=lambda: point)


def target(choice: Choice | None) -> str:
    assert choice is not None
    return choice.target.label


def routed(*weights: float, **fields: Any) -> RouteTable:
    """One route `r` over versions 1, 2, ... of `m`."""
    targets = [{"model": "m", "version": number, "weight": weight} for number, weight in enumerate(weights, 1)]
    return RouteTable(Routes(routes=(Route.model_validate({"name": "r", "targets": targets, **fields}),)))


def test_a_name_without_a_route_and_a_pinned_version_are_not_routed() -> None:
    table = RouteTable.parse(CANARY)
    assert choose(table, "other") is None
    assert choose(table, version="3") is None
    assert choose(table, version="") is not None


def test_weights_split_the_unit_interval() -> None:
    table = RouteTable.parse(CANARY)
    assert [target(choose(table, point=point)) for point in (0.0, 0.9499, 0.95, 0.999999)] == [
        "digits/3",
        "digits/3",
        "digits/4",
        "digits/4",
    ]


def test_all_that_a_choice_says() -> None:
    table = RouteTable.parse("""
        routes:
          - name: digits
            targets: [{model: digits, version: 3}]
            fallback: {targets: [{model: digits, version: 3}, {model: digits, version: 2}], after_ms: 200}
            shadow: {model: digits, version: 4, fraction: 0.5}
            deadline_ms: 500
            priority: 2
    """)
    choice = choose(table, point=0.4)
    assert choice is not None
    assert choice.shadow is not None
    assert choice.shadow.label == "digits/4"
    assert (choice.route, choice.kind, choice.deadline_s, choice.priority) == ("digits", "weight", 0.5, 2)
    assert [one.label for one in choice.fallbacks] == ["digits/2"]  # not the chosen one itself
    assert choice.fallback_after_s == 0.2
    unsampled = choose(table, point=0.5)
    assert unsampled is not None
    assert unsampled.shadow is None


def test_a_plain_route_leaves_everything_at_the_models_default() -> None:
    choice = choose(RouteTable.parse("routes: [{name: digits, targets: [{model: m}]}]"))
    assert choice == Choice(
        route="digits", target=choice.target if choice else Target(model="m"), kind="weight", fallbacks=(),
        fallback_after_s=None, shadow=None, deadline_s=None, priority=0,
    )  # fmt: skip
    assert target(choice) == "m/newest"


def test_targets_that_arent_ready_are_left_out_while_another_is() -> None:
    table = RouteTable.parse(CANARY)
    assert target(choose(table, ready=lambda one: one.version == 4)) == "digits/4"
    assert target(choose(table, ready=lambda one: one.version == 5)) == "digits/3"  # weight 0 gets nothing, ever
    assert target(choose(table, ready=lambda _: False)) == "digits/3"


RULES = """
tenant_header: X-Org
routes:
  - name: digits
    targets: [{model: digits}]
    deadline_ms: 500
    priority: 5
    rules:
      - when: {header: X-Beta, present: true}
        targets: [{model: beta}]
        priority: 1
      - when: {header: x-client, equals: [ios, android]}
        targets: [{model: mobile}]
      - when: {header: user-agent, prefix: curl/}
        targets: [{model: curl}]
        deadline_ms: 5000
      - when: {tenant: [acme, initech]}
        targets: [{model: acme-1}, {model: acme-2}]
        sticky: {tenant: true}
      - when: {header: x-known, present: false}
        targets: [{model: unknown}]
"""


def test_the_first_rule_that_holds_decides() -> None:
    table = RouteTable.parse(RULES)

    def rule(**headers: str) -> tuple[str, str, float | None, int]:
        choice = choose(table, headers={name.replace("_", "-"): value for name, value in headers.items()})
        assert choice is not None
        return choice.target.model, choice.kind, choice.deadline_s, choice.priority

    assert rule(x_beta="", x_client="ios") == ("beta", "rule", 0.5, 1)
    assert rule(x_client="android") == ("mobile", "rule", 0.5, 5)
    assert rule(user_agent="curl/8.1") == ("curl", "rule", 5.0, 5)
    assert rule(x_client="web") == ("unknown", "rule", 0.5, 5)
    assert rule(x_known="1", user_agent="Curl/8.1") == ("digits", "weight", 0.5, 5)
    assert rule(x_org="acme")[:2] in (("acme-1", "rule"), ("acme-2", "rule"))
    assert rule(x_org="umbrella", x_known="1")[0] == "digits"


def test_headers_are_only_read_where_a_route_needs_them() -> None:
    def read() -> Mapping[str, str]:
        raise AssertionError("nobody needs them")

    assert RouteTable.parse(CANARY).choose("digits", None, read, ready=always, random=random.random) is not None


def test_without_its_key_a_sticky_route_goes_by_weight() -> None:
    table = routed(1, 0, sticky={"header": "X-User"})
    for headers, kind in (({}, "weight"), ({"x-user": ""}, "weight"), ({"x-user": "u1"}, "sticky")):
        choice = choose(table, "r", headers)
        assert choice is not None
        assert choice.kind == kind


def keys(table: RouteTable, num: int = 2000, ready: Callable[[Target], bool] = always) -> list[str]:
    return [target(choose(table, "r", {"x-tenant": f"key-{number}"}, ready=ready)) for number in range(num)]


def test_a_key_stays_where_it_is_over_processes_and_releases() -> None:
    """Golden: a change here moves every user of every sticky route."""
    assert (
        "".join(key.removeprefix("m/") for key in keys(routed(1, 1, 2, sticky={"tenant": True}), 16))
        == "3132313223332212"
    )


weights = st.integers(min_value=1, max_value=100)


@settings(max_examples=15, deadline=None)
@given(st.lists(weights, min_size=2, max_size=4), st.data())
def test_keys_follow_the_weights_and_only_those_move_that_must(before: list[int], data: st.DataObject) -> None:
    changed = data.draw(st.integers(0, len(before) - 1))
    after = before.copy()
    after[changed] = data.draw(weights)
    old, new = (keys(routed(*given, sticky={"tenant": True})) for given in (before, after))
    for number, weight in enumerate(before, 1):
        assert abs(old.count(f"m/{number}") / len(old) - weight / sum(before)) < 0.06
    moved = [(one, other) for one, other in zip(old, new, strict=True) if one != other]
    grows = after[changed] > before[changed]
    assert all((other if grows else one) == f"m/{changed + 1}" for one, other in moved)
    share = abs(after[changed] / sum(after) - before[changed] / sum(before))
    assert abs(len(moved) / len(old) - share) < 0.06


def test_when_a_target_goes_only_its_own_keys_move() -> None:
    table = routed(1, 1, 2, sticky={"tenant": True})
    before, after = keys(table), keys(table, ready=lambda one: one.version != 1)
    moved = [one for one, other in zip(before, after, strict=True) if one != other]
    assert moved
    assert set(moved) == {"m/1"}
    assert before.count("m/1") == len(moved)
    assert set(keys(table, 3, ready=lambda _: False)) <= {"m/1", "m/2", "m/3"}


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_any_text_is_a_key(key: str) -> None:
    assert choose(routed(1, 1, sticky={"header": "x"}), "r", {"x": key}) is not None


def test_drawing_again_keeps_the_others_shares() -> None:
    table, rng = routed(50, 30, 20), random.Random(0)
    choices = [
        table.choose("r", None, dict, ready=lambda one: one.version != 1, random=rng.random) for _ in range(4000)
    ]
    counted = Counter(map(target, choices))
    assert set(counted) == {"m/2", "m/3"}
    assert abs(counted["m/2"] / 4000 - 0.6) < 0.03
