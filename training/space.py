"""What a search may change of a run's configuration, and between which bounds.

A recipe says it in Python, a person on the command line in one word a number:

    peak_learning_rate=0.01..0.5:log    any number between, even on a logarithmic scale
    epochs=4..20                        any whole number between, where the bounds are whole
    optimizer=sgd,adamw                 one of these
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from training.config import TrainConfig
from training.error import TrainingError

_NOT_SEARCHED = {"seed", "num_train"}  # the best of many seeds is luck, and more data always wins
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "none": None}

Value = str | int | float | bool | None


class SpaceInvalid(TrainingError):
    """A search space can't be read, or holds what can't be trained with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Between:
    """Numbers from `low` to `high`, both included; whole ones when both are."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Bounds are in order, and a logarithm has a lower one above 0."""
        if not self.low < self.high:
            raise ValueError(f"expected a lower bound below the upper one, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic scale needs bounds above 0, got {self.low}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OneOf:
    """One of several values."""

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        """A choice of one is none."""
        if len(set(self.values)) < 2:
            raise ValueError(f"expected at least two different values, got {list(self.values)}")


Space = Mapping[str, Between | OneOf]


def default_space(config: TrainConfig) -> Space:
    """What pays most for most networks: the learning rate, and the weights' decay where there is any."""
    rate, decay = config.peak_learning_rate, config.weight_decay
    space: dict[str, Between | OneOf] = {"peak_learning_rate": Between(low=rate / 10, high=rate * 10, log=True)}
    if decay > 0:
        space["weight_decay"] = Between(low=decay / 10, high=decay * 10, log=True)
    return space


def parse(texts: Sequence[str], config: TrainConfig) -> Space:
    """A space from the command line's words; raises SpaceInvalid with what is wrong with one of them."""
    space: dict[str, Between | OneOf] = {}
    for text in texts:
        name, equals, said = text.partition("=")
        if not equals or not said:
            raise SpaceInvalid(f"expected NAME=LOW..HIGH[:log] or NAME=A,B,..., got {text!r}")
        try:
            space[name] = _parse(said)
        except ValueError as exc:
            raise SpaceInvalid(f"{name}: {exc}") from None
    check(space, config)
    return space


def check(space: Space, config: TrainConfig) -> None:
    """Raise SpaceInvalid for a name that isn't the configuration's, or an end of a range that it refuses."""
    known = {field.name for field in fields(config)} - _NOT_SEARCHED
    for name, part in space.items():
        if name not in known:
            raise SpaceInvalid(f"expected one of {', '.join(sorted(known))}, got {name!r}")
        for value in (part.low, part.high) if isinstance(part, Between) else part.values:
            apply(config, {name: value})


def apply(config: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with these values; raises SpaceInvalid when they don't go together."""
    try:
        return replace(config, **values)
    except (TypeError, ValueError) as exc:
        raise SpaceInvalid(f"the space holds a configuration that can't be trained with: {exc}") from None


def _parse(said: str) -> Between | OneOf:
    said, colon, scale = said.partition(":")
    if colon and scale != "log":
        raise ValueError(f"expected no scale or log, got {scale!r}")
    low, dots, high = said.partition("..")
    if not dots:
        return OneOf(values=tuple(_value(part) for part in said.split(",")))
    bounds = _value(low), _value(high)
    if not all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in bounds):
        raise ValueError(f"expected two numbers with .. between them, got {said!r}")
    return Between(low=bounds[0], high=bounds[1], log=scale == "log")  # type: ignore[arg-type]  # just checked


def _value(text: str) -> Value:
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
