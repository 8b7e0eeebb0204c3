import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.promql import metric_names


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("up", {"up"}),
        ("rate(a_total[5m])", {"a_total"}),
        ("rate(a_total{b=\"c\", d!~'e|f{2}', g=`h\"`}[5m] offset 1h30m)", {"a_total"}),
        ("sum by (model, version) (rate(a[5m])) / on (model) group_left (task) b", {"a", "b"}),
        ("sum(a) without (instance) > bool 0.5", {"a"}),
        ("SUM BY (x) (a) OR b", {"a", "b"}),
        ("a * on (x) group_left b", {"a", "b"}),
        ("a and on () b unless c atan2 d", {"a", "b", "c", "d"}),
        ("model_version:a:rate5m{x=\"y\"} >= 1e-3 or vector(Inf) + NaN + 0x1F + .5", {"model_version:a:rate5m"}),
        ('label_replace(a, "bin", "$1", "label", "(.*)")', {"a"}),
        ("max_over_time(rate(a[5m])[1h:1m] @ end())", {"a"}),
        ("count_values(\"version\", a) # not_a_metric{", {"a"}),
        ('{__name__="a", b="c"}', {"a"}),
        ('{b="__name__"}', set()),
        ('a{by="sum"} + sum{sum="rate"}', {"a", "sum"}),
        ("rate(a[$__rate_interval]) + b{model=~\"$model\"}", {"a", "b"}),
        ("a{b=\"}\"} + c", {"a", "c"}),
        ("a{} == on(job, instance) c", {"a", "c"}),
        ("-a ^ -b % c", {"a", "b", "c"}),
        ("group_left_total + by_total", {"group_left_total", "by_total"}),
        ("", set()),
    ],
)  # fmt: skip
def test_finds_metrics_and_nothing_else(expression: str, names: set[str]) -> None:
    assert metric_names(expression) == names


@pytest.mark.parametrize("expression", ['a{b="c"', "sum by (a", "rate(a[5m", '"open', "a ? b", "a; b"])
def test_what_is_no_promql_is_an_error(expression: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        metric_names(expression)


def test_a_selector_by_pattern_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown"):
        metric_names('sum({__name__=~"gateway_.*"})')


NAMES = st.from_regex(r"[a-z][a-z0-9_]{2,12}(:[a-z0-9_]{1,6}){0,2}_total", fullmatch=True)
LABELS = st.lists(st.sampled_from(["model", "version", "le", "up", "rate"]), max_size=3).map(", ".join)
TEXTS = st.text(st.sampled_from("abz_019 {}()[]|.*$"), max_size=8)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, set[str]]:
    """An expression made from the grammar, and the metrics that went into it."""
    if depth == 0:
        name = draw(NAMES)
        matchers = ", ".join(f'{label}="{draw(TEXTS)}"' for label in draw(st.lists(st.just("le"), max_size=2)))
        return f"{name}{{{matchers}}}" if matchers else name, {name}
    left, left_names = draw(expressions(depth=depth - 1))
    right, right_names = draw(expressions(depth=0))
    labels = draw(LABELS)
    shape = draw(st.integers(0, 5))
    match shape:
        case 0:
            return f"sum by ({labels}) (rate({right}[5m]))", right_names
        case 1:
            return f"({left}) / on ({labels}) group_left () ({right} > 0)", left_names | right_names
        case 2:
            return f"histogram_quantile(0.9, {left})", left_names
        case 3:
            return f'label_replace({left}, "le", "$1", "model", "(.*)")', left_names
        case 4:
            return f"{left}\n  or {right} * 0", left_names | right_names
        case _:
            return f"max({left}) without ({labels})", left_names


@given(expressions())
def test_finds_exactly_what_an_expression_was_made_of(made: tuple[str, set[str]]) -> None:
    expression, names = made

    assert metric_names(expression) == names
