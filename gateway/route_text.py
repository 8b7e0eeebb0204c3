"""`routes.yaml` as text: read into a model, or else one sentence that says where it is wrong, and how.

YAML without what makes it ambiguous or dangerous: no aliases, no tags, no key twice, and no more of it than a person
would write. Only plain values are taken: a date or a version such as `1.2.3` stays the text that it is.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from gateway.error import ConfigurationError

MAX_BYTES = 1_000_000

Place = tuple[str | int, ...]  # keys and positions from the top of the document
D = TypeVar("D", bound=BaseModel)

_MAX_DEPTH = 16
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null")}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a PyYAML without libyaml reads the same, slower
_WORDS: Mapping[str, str] = {  # by pydantic's types of error; what isn't here is said in its words
    "missing": "is missing",
    "string_type": "expected text, in quotes if it looks like a number or like yes and no",
    "string_pattern_mismatch": "expected text that matches {pattern}",
    "tuple_type": "expected a list",
    "too_short": "expected at least {min_length} in the list",
    "bool_type": "expected true or false",
    "literal_error": "expected true, or nothing",
    "model_type": "expected keys with values",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected at least {ge:g}",
    "less_than_equal": "expected at most {le:g}",
}


class RouteError(ConfigurationError):
    """The routes can't be read; the message says where in the document and what was expected."""


def wrong(sentence: str, *at: str | int) -> PydanticCustomError:
    """What a validator raises: a sentence of ours, and where below the validated value it belongs."""
    return PydanticCustomError("route", "{sentence}", {"sentence": sentence, "at": at})


def read(text: str, model: type[D]) -> D:
    """The model that the text holds; an empty text is the model of all defaults. Raises RouteError."""
    if len(text) > MAX_BYTES:
        raise RouteError(f"expected at most {MAX_BYTES} characters, got {len(text)}")
    lines: dict[Place, int] = {(): 1}
    try:
        node = _compose(text)
        document = None if node is None else _value(node, (), lines)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        raise RouteError(f"{_line(mark) if mark else ''}not YAML: {_problem(exc)}") from exc
    except yaml.YAMLError as exc:
        raise RouteError(f"not YAML: {str(exc).splitlines()[0]}") from exc
    try:
        return model.model_validate({} if document is None else document)
    except ValidationError as exc:
        raise RouteError(_sentence(exc, model, lines)) from exc


def _compose(text: str) -> Any:
    """The tree of nodes. The events are looked at first: they are cheap whatever they would build."""
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise RouteError(f"{_line(event.start_mark)}expected no alias, got *{event.anchor:.60}; write it out")
        if getattr(event, "tag", None) is not None:
            raise RouteError(f"{_line(event.start_mark)}expected no tag, got {event.tag:.60}; leave it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise RouteError(f"{_line(event.start_mark)}expected at most {_MAX_DEPTH} levels, got more")
    return yaml.compose(text, Loader=_LOADER)


def _value(node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                raise RouteError(f"{_line(key_node.start_mark)}{_name(place)}expected a key that is text")
            if key in found:
                raise RouteError(f"{_line(key_node.start_mark)}{_name(place)}the key {key!r:.60} is there twice")
            lines[*place, key] = key_node.start_mark.line + 1
            found[key] = _value(value_node, (*place, key), lines)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*place, number), lines) for number, item in enumerate(node.value)]
    if node.tag not in _PLAIN:
        return node.value
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except ValueError:  # more digits than Python reads
        raise RouteError(f"{_line(node.start_mark)}{_name(place)}expected a number that can be read") from None


def _sentence(exc: ValidationError, model: type[BaseModel], lines: Mapping[Place, int]) -> str:
    errors = exc.errors(include_url=False)
    # An unknown key before the rest: it is often why another one is missing.
    error = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    context = error.get("ctx", {})
    place = known = (*error["loc"], *context.get("at", ()))
    while known not in lines:
        known = known[:-1]
    if error["type"] == "extra_forbidden":
        keys = ", ".join(_model_at(model, place[:-1]).model_fields)
        return f"line {lines[known]}: {_name(place[:-1])}unknown key {place[-1]!r:.60}; keys are {keys}"
    words = _WORDS.get(error["type"], error["msg"].replace("Input should be", "expected")).format(**context)
    return f"line {lines[known]}: {_name(place)}{words}{_got(error['type'], error['input'])}"


def _model_at(model: type[BaseModel], place: Place) -> type[BaseModel]:
    for part in place:
        if isinstance(part, str):
            model = next(_models_in(model.model_fields[part].annotation))
    return model


def _models_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _got(kind: str, came: Any) -> str:
    if kind in ("missing", "route") or isinstance(came, (dict, list)):
        return ""
    return f", got {json.dumps(came):.60}"


def _name(place: Place) -> str:
    parts = (
        f"[{part}]" if isinstance(part, int) else f".{part if part.isprintable() else ascii(part)}" for part in place
    )
    return f"{''.join(parts).lstrip('.')}: " if place else ""


def _problem(exc: yaml.MarkedYAMLError) -> str:
    return ", ".join(said for said in (exc.context, exc.problem) if said)


def _line(mark: Any) -> str:
    return f"line {mark.line + 1}: "
