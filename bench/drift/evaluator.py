"""Evaluates PromQL at every point of a grid of times at once: numpy arrays `[T]` instead of one instant after another.

What is measured is the text of the very rules, not a second implementation of what they compute. It knows the part of
PromQL that they use and refuses the rest, and a test holds its values against promtool's on the same series. Series lie
on the grid that is evaluated: there `increase` over a range is the difference of its two ends, extrapolating nothing.
Counters don't restart here. The parser is Prometheus' own grammar, by promql-parser.
Source: https://prometheus.io/docs/prometheus/2.42/querying/operators/
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import promql_parser as promql
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = tuple[tuple[str, str], ...]  # sorted, without the name

_CHECKS: Mapping[str, Callable[[Any, Any], NDArray[np.bool_]]] = {
    ">": np.greater, "<": np.less, ">=": np.greater_equal, "<=": np.less_equal, "==": np.equal, "!=": np.not_equal
}  # fmt: skip
_ARITHMETIC: Mapping[str, Callable[[Any, Any], Floats]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "^": np.power
}  # fmt: skip
_FUNCTIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "abs": np.abs, "sqrt": np.sqrt, "asin": np.arcsin, "ln": np.log, "log2": np.log2, "log10": np.log10
}  # fmt: skip


@dataclass(slots=True)
class Vector:
    """Row i of `values` `[series, T]` is the series of `labels[i]`; NaN where it has no sample."""

    labels: list[Labels]
    values: Floats


Value = Vector | float


class Evaluator:
    """Series on a grid of `step_s`, by name; what a rule records is one more of them.

    A result that is NaN is taken for an absent one: the rules never let one through.
    """

    def __init__(self, series: Mapping[str, Vector], step_s: int) -> None:
        self.series = dict(series)
        self._step_s = step_s
        self._num = next(iter(series.values())).values.shape[1]

    def record(self, name: str, expr: str, labels: Mapping[str, str]) -> None:
        """Evaluate a rule; several may record one series, under different labels."""
        result = self.evaluate(expr)
        named = [tuple(sorted({**dict(one), **labels}.items())) for one in result.labels]
        known = self.series.get(name)
        if known is None:
            self.series[name] = Vector(named, result.values)
        else:
            self.series[name] = Vector(known.labels + named, np.concatenate([known.values, result.values]))

    def evaluate(self, expr: str) -> Vector:
        """Every series of an expression at every point of the grid."""
        with np.errstate(all="ignore"):
            result = self._eval(promql.parse(expr))
        assert isinstance(result, Vector), expr
        return result

    def _eval(self, node: Any) -> Value:
        match node:
            case promql.NumberLiteral():
                return float(node.val)
            case promql.ParenExpr():
                return self._eval(node.expr)
            case promql.VectorSelector():
                return self._select(node)
            case promql.AggregateExpr():
                by = list(node.modifier.labels) if node.modifier else []
                return _aggregate(str(node.op), by, self._vector(node.expr))
            case promql.Call():
                return self._call(node)
            case promql.BinaryExpr():
                return _binary(str(node.op), self._eval(node.lhs), self._eval(node.rhs), node.modifier)
        raise NotImplementedError(f"no evaluation of {type(node).__name__}")

    def _vector(self, node: Any) -> Vector:
        value = self._eval(node)
        assert isinstance(value, Vector)
        return value

    def _select(self, node: Any) -> Vector:
        known = self.series.get(node.name) or Vector([], np.empty((0, self._num)))
        matchers = [(m.name, str(m.op), m.value) for m in node.matchers.matchers]
        rows = [i for i, labels in enumerate(known.labels) if all(_matches(dict(labels), *m) for m in matchers)]
        found = known if len(rows) == len(known.labels) else Vector([known.labels[i] for i in rows], known.values[rows])
        if node.offset is None:
            return found
        return Vector(found.labels, _delayed(found.values, round(node.offset.total_seconds()) // self._step_s))

    def _call(self, node: Any) -> Vector:
        name = node.func.name
        if name in ("increase", "sum_over_time", "last_over_time", "avg_over_time"):
            matrix = node.args[0]
            vector = self._select(matrix.vector_selector)
            return Vector(vector.labels, _over_time(name, vector.values, self._steps(matrix.range)))
        if name == "quantile_over_time":
            vector, steps = self._select(node.args[1].vector_selector), self._steps(node.args[1].range)
            return Vector(vector.labels, _quantile_over_time(float(node.args[0].val), vector.values, steps))
        vector = self._vector(node.args[0])
        if name in _FUNCTIONS:
            return Vector(vector.labels, _FUNCTIONS[name](vector.values))
        if name == "clamp_min":
            return Vector(vector.labels, np.maximum(vector.values, self._eval(node.args[1])))  # type: ignore[arg-type]
        if name == "label_replace":
            return Vector(_relabelled(vector.labels, *(arg.val for arg in node.args[1:])), vector.values)
        raise NotImplementedError(f"no evaluation of {name}()")

    def _steps(self, range_: Any) -> int:
        return int(range_.total_seconds()) // self._step_s


def _matches(labels: Mapping[str, str], name: str, operation: str, value: str) -> bool:
    mine = labels.get(name, "")
    hit = bool(re.fullmatch(value, mine)) if operation.endswith(("Re", "NotRe")) else mine == value
    return hit != ("Not" in operation)


def _delayed(values: Floats, steps: int) -> Floats:
    moved = np.full_like(values, np.nan)
    moved[:, steps:] = values[:, : values.shape[1] - steps]
    return moved


def _over_time(name: str, values: Floats, steps: int) -> Floats:
    """A range holds both of its ends; a range that begins before the first sample holds what there is."""
    num = values.shape[1]
    first = np.maximum(np.arange(num) - steps, 0)
    if name == "increase":
        grown: Floats = values - values[:, first]
        grown[:, 0] = np.nan  # one sample is none to compare with
        return grown
    there = ~np.isnan(values)
    if name == "last_over_time":
        last = np.maximum.accumulate(np.where(there, np.arange(num), -1), axis=1)
        found = np.take_along_axis(values, np.maximum(last, 0), axis=1)
        return np.where(last >= first, found, np.nan)

    def summed(each: Floats) -> Floats:
        total = np.cumsum(np.pad(each, ((0, 0), (1, 0))), axis=1)
        return np.asarray(total[:, 1:] - total[:, first])

    count, total = summed(there.astype(np.float64)), summed(np.where(there, values, 0))
    return np.where(count > 0, total if name == "sum_over_time" else total / count, np.nan)


def _quantile_over_time(quantile: float, values: Floats, steps: int) -> Floats:
    found = np.full_like(values, np.nan)
    there = ~np.isnan(values)
    for row, known in enumerate(there):
        if known.any():
            for step in range(int(known.argmax()), values.shape[1]):
                part = values[row, max(step - steps, 0) : step + 1]
                part = part[~np.isnan(part)]
                if part.size:
                    found[row, step] = np.quantile(part, quantile)
    return found


def _relabelled(labels: Sequence[Labels], target: str, text: str, source: str, pattern: str) -> list[Labels]:
    renamed = []
    for one in labels:
        match = re.fullmatch(pattern, dict(one).get(source, ""))
        new = dict(one) if match is None else {**dict(one), target: match.expand(re.sub(r"\$(\d+)", r"\\\1", text))}
        renamed.append(tuple(sorted((name, value) for name, value in new.items() if value)))
    return renamed


def _aggregate(operation: str, by: Sequence[str], vector: Vector) -> Vector:
    keys = [tuple((n, v) for n, v in labels if n in by) for labels in vector.labels]
    places = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    shape = (len(places), vector.values.shape[1])
    there = ~np.isnan(vector.values)
    found = np.zeros(shape, bool)
    result = np.full(shape, -np.inf) if operation == "max" else np.zeros(shape)
    for row, key in enumerate(keys):
        place = places[key]
        found[place] |= there[row]
        if operation == "max":
            result[place] = np.fmax(result[place], vector.values[row])
        elif operation == "count":
            result[place] += there[row]
        elif operation == "sum":
            result[place] += np.where(there[row], vector.values[row], 0)
        else:
            raise NotImplementedError(f"no evaluation of {operation}")
    return Vector(list(places), np.where(found, result, np.nan))


def _binary(operation: str, left: Value, right: Value, modifier: Any) -> Value:
    if operation in ("and", "or", "unless"):
        assert isinstance(left, Vector)
        assert isinstance(right, Vector)
        return _set(operation, left, right, modifier)
    if isinstance(left, Vector) and isinstance(right, Vector):
        return _joined(operation, left, right, modifier)
    if isinstance(left, float) and isinstance(right, float):
        return float(_ARITHMETIC[operation](left, right))
    a, b = (each.values if isinstance(each, Vector) else each for each in (left, right))
    vector = left if isinstance(left, Vector) else right
    assert isinstance(vector, Vector)
    if operation in _CHECKS:
        return Vector(vector.labels, _checked(operation, a, b, vector.values, modifier))
    return Vector(vector.labels, _ARITHMETIC[operation](a, b))


def _checked(operation: str, a: Any, b: Any, kept: Floats, modifier: Any) -> Floats:
    holds = _CHECKS[operation](a, b)
    if modifier is not None and modifier.return_bool:
        return np.where(np.isnan(kept), np.nan, holds)
    return np.where(holds, kept, np.nan)


def _keys(labels: Sequence[Labels], modifier: Any) -> list[Labels]:
    """What two series must share to be matched."""
    if modifier is None or modifier.matching is None:
        return list(labels)
    include, names = "Include" in str(modifier.matching.type), set(modifier.matching.labels)
    return [tuple((n, v) for n, v in one if (n in names) == include) for one in labels]


def _joined(operation: str, left: Vector, right: Vector, modifier: Any) -> Vector:
    """Arithmetic and comparisons of two vectors, one to one or many to one."""
    places = {key: row for row, key in enumerate(_keys(right.labels, modifier))}
    if len(places) != len(right.labels):
        raise ValueError(f"many-to-many matching in {operation}")
    keys = _keys(left.labels, modifier)
    rows = [row for row, key in enumerate(keys) if key in places]
    a, b = left.values[rows], right.values[[places[keys[row]] for row in rows]]
    many = modifier is not None and "ManyToOne" in str(modifier.card)
    labels = [left.labels[row] if many or operation in _CHECKS else keys[row] for row in rows]
    if operation in _CHECKS:
        return Vector(labels, _checked(operation, a, np.where(np.isnan(b), np.nan, b), a, modifier))
    return Vector(labels, _ARITHMETIC[operation](a, b))


def _set(operation: str, left: Vector, right: Vector, modifier: Any) -> Vector:
    keys, others = _keys(left.labels, modifier), _keys(right.labels, modifier)
    if operation == "or":
        return _union(left, right, keys, others)
    present = _presence(others, right.values)
    nowhere = np.zeros(left.values.shape[1], bool)
    kept = [present.get(key, nowhere) != (operation == "unless") for key in keys]
    mask = np.stack(kept) if kept else np.zeros_like(left.values, bool)
    return Vector(left.labels, np.where(mask, left.values, np.nan))


def _union(left: Vector, right: Vector, keys: Sequence[Labels], others: Sequence[Labels]) -> Vector:
    """All of the left, and of the right what has no match there at that time."""
    present = _presence(keys, left.values)
    rows = {labels: left.values[i] for i, labels in enumerate(left.labels)}
    for labels, key, values in zip(right.labels, others, right.values, strict=True):
        free = np.where(present[key], np.nan, values) if key in present else values
        known = rows.get(labels)
        rows[labels] = free if known is None else np.where(np.isnan(known), free, known)
    values = np.stack(list(rows.values())) if rows else left.values
    return Vector(list(rows), values)


def _presence(keys: Sequence[Labels], values: Floats) -> dict[Labels, NDArray[np.bool_]]:
    """At which times there is a series of a key."""
    present: dict[Labels, NDArray[np.bool_]] = {}
    for key, row in zip(keys, values, strict=True):
        there = ~np.isnan(row)
        present[key] = present[key] | there if key in present else there
    return present
