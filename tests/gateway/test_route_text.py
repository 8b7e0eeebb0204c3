"""What is no routes.yaml: one sentence, with its line and its place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.route import RouteTable
from gateway.route_text import MAX_BYTES, RouteError


def route(*lines: str) -> str:
    """A route `a` over `m`, its targets on line 3, with more lines from line 4 on."""
    return "\n".join(("routes:", "- name: a", "  targets: [{model: m}]", *(f"  {line}" for line in lines)))


@pytest.mark.parametrize("text", ["", "# only a comment", "---", "null", "{}", "routes: []"])
def test_nothing_is_no_routes(text: str) -> None:
    assert RouteTable.parse(text).document.routes == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # no plain YAML
        ("a: b: c", "line 1: not YAML: mapping values are not allowed in this context"),
        ("a: 1\nb: 'c", "line 2: not YAML: while scanning a quoted scalar, found unexpected end of stream"),
        ("---\n---\n", "line 2: not YAML: expected a single document in the stream, but found another document"),
        ("a: \x00", "not YAML: unacceptable character #x0000: control characters are not allowed"),
        ("a: &x [1]\nb: *x", "line 2: expected no alias, got *x; write it out"),
        ("a: !!python/name:os.system", "line 1: expected no tag, got tag:yaml.org,2002:python/name:os.system; leave"),
        ("[" * 100_000, "line 1: expected at most 16 levels, got more"),
        ("# " + "x" * MAX_BYTES, f"expected at most {MAX_BYTES} characters, got {MAX_BYTES + 2}"),
        ('"a\\nb": {x: 1, x: 2}', "line 1: 'a\\nb': the key 'x' is there twice"),
        ("? [1]\n: 2", "line 1: expected a key that is text"),
        (f"routes: {'9' * 5000}", "line 1: routes: expected a number that can be read"),
        (route("priority: 1", "priority: 2"), "line 5: routes[0]: the key 'priority' is there twice"),
        # no routes
        ("- a", "line 1: expected keys with values"),
        ("hello", 'line 1: expected keys with values, got "hello"'),
        ("routes:", "line 1: routes: expected a list, got null"),
        ("routes: {a: b}", "line 1: routes: expected a list"),
        ("\nroutes:\n- name: a", "line 3: routes[0].targets: is missing"),
        ("rotes: []", "line 1: unknown key 'rotes'; keys are tenant_header, routes"),
        ("<<: {}", "line 1: unknown key '<<'"),
        ("routes: [{name: a, targets: []}]", "line 1: routes[0].targets: expected at least 1 in the list"),
        ("routes: [{name: a/b, targets: [{model: m}]}]", "routes[0].name: expected text that matches ^[A-Za-z0-9_]"),
        (route("- b"), "line 4: not YAML: while parsing a block mapping, did not find expected key"),
        (route("targtes: []"), "line 4: routes[0]: unknown key 'targtes'; keys are targets, sticky, deadline_ms"),
        (route("priority: 10"), "line 4: routes[0].priority: expected at most 9, got 10"),
        (route("priority: true"), "line 4: routes[0].priority: expected a whole number, got true"),
        (route("deadline_ms: 0"), "line 4: routes[0].deadline_ms: expected more than 0, got 0"),
        (route("deadline_ms: .nan"), "line 4: routes[0].deadline_ms: expected a finite number, got NaN"),
        (route("sticky: {}"), "line 4: routes[0].sticky: expected exactly one of 'header', 'tenant', got none"),
        (route("sticky: {tenant: false}"), "routes[0].sticky.tenant: expected true, or nothing, got false"),
        (route("shadow: {model: m}"), "line 4: routes[0].shadow.fraction: is missing"),
        (route("shadow: {model: m, fraction: 1.5}"), "routes[0].shadow.fraction: expected at most 1, got 1.5"),
        (route("shadow: {fractoin: 1}"), "routes[0].shadow: unknown key 'fractoin'; keys are model, version, fraction"),
        (
            route("rules:", "- when: {header: x, equals: [1]}", "  targets: [{model: b}]"),
            "line 5: routes[0].rules[0].when.equals[0]: expected text, in quotes if it looks like a number",
        ),
        (
            route("rules:", "- when: {header: x, present: 'yes'}", "  targets: [{model: b}]"),
            "line 5: routes[0].rules[0].when.present: expected true or false, got \"yes\"",
        ),
        (
            route("rules:", "- when: {header: x}", "  targets: [{model: b}]"),
            "line 5: routes[0].rules[0].when: expected exactly one of 'equals', 'prefix', 'present', got none",
        ),
        (
            route("rules:", "- when: {tenant: [a], prefix: b}", "  targets: [{model: b}]"),
            "routes[0].rules[0].when: 'equals', 'prefix' and 'present' belong to a header",
        ),
        (
            route("deadline_ms: 100", "fallback:", "  targets: [{model: b}]", "  after_ms: 100"),
            "line 7: routes[0].fallback.after_ms: expected less than the deadline of 100 ms, got 100",
        ),
        (
            route("fallback: {targets: [{model: b}, {model: b}]}"),
            "line 4: routes[0].fallback.targets[1]: b/newest is there twice; write each target once",
        ),
        (
            "routes: [{name: a, targets: [{model: m, weight: 0}]}]",
            "line 1: routes[0].targets: expected a weight above 0 for at least one target, got none",
        ),
        (
            "routes:\n- name: a\n  targets:\n  - model: m\n    wieght: 1",
            "line 5: routes[0].targets[0]: unknown key 'wieght'; keys are model, version, weight",
        ),
        (
            "routes:\n- {name: a, targets: [{model: m}]}\n- targets: [{model: m}]\n  name: a",
            "line 4: routes[1].name: routes[0] has the name 'a' already",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_with_its_place(text: str, sentence: str) -> None:
    with pytest.raises(RouteError) as error:
        RouteTable.parse(text)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_values_that_look_like_something_else_stay_text() -> None:
    rule = "- when: {header: x, equals: [2026-01-01, 1.2.3, =, '1']}"
    table = RouteTable.parse(route("rules:", rule, "  targets: [{model: b}]"))
    assert table.document.routes[0].rules[0].when.equals == ("2026-01-01", "1.2.3", "=", "1")


VALID = route("sticky: {header: x}", "shadow: {model: m, fraction: 0.1}", "fallback: {targets: [{model: n}]}")


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, len(VALID)),
    st.integers(0, 5),
    st.text(st.sampled_from("aB1:-[]{},&*!#'\"|>%? \n\t\x00é.~"), max_size=6),
)
def test_whatever_is_edited_is_read_or_refused_in_one_line(at: int, cut: int, put: str) -> None:
    said = ""
    try:
        RouteTable.parse(VALID[:at] + put + VALID[at + cut :])
    except RouteError as exc:
        said = str(exc)
    assert "\n" not in said
