"""Which metrics a PromQL expression reads.

A tokenizer and the few rules of the grammar that tell a metric name from the other names in an expression: functions,
aggregations, keywords, label names. It reads what Prometheus accepts; it doesn't check expressions (promtool does).
Source: https://prometheus.io/docs/prometheus/latest/querying/basics/
"""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
    (?P<blank>\s+|\#[^\n]*)
    | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    | (?P<range>\[[^\]]*\])
    | (?P<number>\.?[0-9](?:[eE][+-]|[0-9a-zA-Z_.])*)
    | (?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)
    | (?P<symbol>[=!<>]=|[=!]~|[-+*/%^(){},<>=@])
    """,
    re.VERBOSE,
)
_LABEL_LISTS = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS = frozenset({"and", "or", "unless", "atan2", "bool", "offset", "inf", "nan"})

_Token = tuple[str, str]  # kind and text
_END: _Token = ("end", "")


def metric_names(expression: str) -> set[str]:
    """Names of the series that the expression selects; histograms by the series' name, `_bucket` and all.

    Grafana's variables may stand in strings and in ranges (`[$__rate_interval]`). Raises ValueError for text that is no
    PromQL, and for a selector whose name is a pattern (`{__name__=~"..."}`), since what it reads can't be known.
    """
    tokens = [*_tokens(expression), _END]
    names: set[str] = set()
    position = 0
    while tokens[position] is not _END:
        kind, text = tokens[position]
        following = tokens[position + 1][1]
        position += 1
        if text == "{":
            position = _read_matchers(tokens, position, names)
        elif kind == "name" and text.lower() in _LABEL_LISTS:
            if following == "(":
                position = _closing(tokens, position, ")")
        elif kind == "name" and text.lower() not in _WORDS and not _is_call(following):
            names.add(text)
    return names


def _is_call(following: str) -> bool:
    """Whether a name before this token is a function or an aggregation: `rate(...)`, `sum by (...) (...)`."""
    return following == "(" or following.lower() in ("by", "without")


def _tokens(expression: str) -> Iterator[_Token]:
    position = 0
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None or match.lastgroup is None:
            raise ValueError(f"expected PromQL, got {expression[position : position + 20]!r} in {expression!r:.200}")
        position = match.end()
        if match.lastgroup != "blank":
            yield match.lastgroup, match.group()


def _read_matchers(tokens: list[_Token], start: int, names: set[str]) -> int:
    """Read `label="value", ...}`, where only `__name__` names a metric; returns the position behind the brace."""
    end = _closing(tokens, start, "}")
    for position in range(start, end - 1):
        if tokens[position] != ("name", "__name__"):
            continue
        operator, (kind, value) = tokens[position + 1][1], tokens[position + 2]
        if operator != "=" or kind != "string":
            raise ValueError(
                f"expected __name__ to be matched by =, got {operator!r}: which metrics it reads is unknown"
            )
        names.add(value[1:-1])
    return end


def _closing(tokens: list[_Token], start: int, symbol: str) -> int:
    """Position behind the next `symbol`; strings are tokens of their own, so a brace in one doesn't count."""
    for position in range(start, len(tokens)):
        if tokens[position] == ("symbol", symbol):
            return position + 1
    raise ValueError(f"expected {symbol!r} before the end of the expression")
