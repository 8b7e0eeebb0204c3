"""Fine-tuning: a run that begins with another run's weights, and leaves some of them as they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from contract.digest import sha256_of
from training.checkpoint import CHECKPOINT_FILE
from training.error import RunMismatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Weights to begin with: a safetensors file, or a run's folder.

    What a pattern in `fresh` names begins with the network's own values, as a new head does: `("head.*",)`.
    """

    weights: Path
    fresh: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """The safetensors file."""
        return self.weights / CHECKPOINT_FILE if self.weights.is_dir() else self.weights

    def describe(self) -> dict[str, Any]:
        """Part of the run's identity: the weights by their digest, wherever they lie; raises RunMismatch."""
        if not self.file.is_file():
            raise RunMismatch(f"expected weights to start from in {self.file}, got no such file")
        return {"sha256": sha256_of(self.file), "fresh": list(self.fresh)}

    def load(self, network: nn.Module) -> None:
        """Put the weights into the network; raises RunMismatch naming those that don't fit."""
        try:
            saved = load_file(self.file)
        except (OSError, SafetensorError) as exc:
            raise RunMismatch(f"{self.file} is no safetensors file ({exc!s:.120})") from exc
        if any(name.startswith("network.") for name in saved):  # a run's checkpoint
            saved = {n.removeprefix("network."): tensor for n, tensor in saved.items() if n.startswith("network.")}
        wanted = network.state_dict()
        fresh = {name for name in {*saved, *wanted} if matches(name, self.fresh)}
        _check_names(self, {n: t for n, t in saved.items() if n not in fresh}, wanted, fresh)
        network.load_state_dict({n: t for n, t in saved.items() if n not in fresh}, strict=False)


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Leave the parameters that a pattern names as they are; raises ValueError for a pattern that names none."""
    for pattern in patterns:
        named = [p for name, p in network.named_parameters() if fnmatchcase(name, pattern)]
        if not named:
            known = ", ".join(name for name, _ in network.named_parameters())
            raise ValueError(f"frozen: expected a pattern for parameters, got {pattern!r}; there are {known:.300}")
        for parameter in named:
            parameter.requires_grad_(False)


def set_training(network: nn.Module) -> None:
    """Training mode, but for modules that are frozen whole: their running statistics and dropout stay out of it."""
    network.train()
    for module in _frozen(network):
        module.eval()


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns names it; `*` stands for anything, dots too."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _frozen(network: nn.Module) -> Iterator[nn.Module]:
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            yield module


def _check_names(start: Start, saved: dict[str, Tensor], wanted: dict[str, Tensor], fresh: set[str]) -> None:
    differences = {
        "missing": [name for name in wanted if name not in saved and name not in fresh],
        "unexpected": [name for name in saved if name not in wanted],
        "of another shape": [n for n in saved if n in wanted and saved[n].shape != wanted[n].shape],
    }
    said = "; ".join(f"{', '.join(names):.200} {what}" for what, names in differences.items() if names)
    if said:
        raise RunMismatch(
            f"{start.file} doesn't hold this network's weights ({said}): name what is to begin anew in `fresh`, "
            "or start from another file"
        )
