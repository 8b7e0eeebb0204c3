"""A look at the layers while a network learns: which get no gradient, which get too much, which have died.

The hooks are there for the watched steps only, and change nothing: a watched run has the bits of an unwatched one.
Vanishing and exploding gradients: Bengio, Simard & Frasconi 1994; dead units: Maas, Hannun & Ng 2013.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from training.forward import as_tuple
from training.group import whole

VANISHING = 1e-6  # of the largest gradient in any layer, each beside its weights
EXPLODING = 100.0  # gradient beside weights: any usual learning rate throws such weights away in one step
DEAD_RATIO = 0.9  # of a layer's units
_MIN_UNITS = 4  # one of two being dead is no layer's death
_NUM_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """What a layer showed at one step; None where it has no weights of two axes, or answered nothing to look at.

    `gradient_ratio` is the gradient's norm beside the weights', `dead_ratio` the share of units that answered the
    same to every sample.
    """

    gradient_ratio: float | None = None
    activation_rms: float | None = None
    dead_ratio: float | None = None


class LayerWatch:
    """Listens to the forward passes inside its context; `layers` then reads the gradients too."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._answers: dict[str, Layer] = {}
        self._latest: Tensor | None = None
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        """Begin to listen."""
        for name, module in self._network.named_modules():
            if name:
                self._hooks.append(module.register_forward_hook(_listener(self._hear, name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop listening."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._latest = None

    def layers(self) -> dict[str, Layer]:
        """Every layer that answered or has a gradient, by name; call it between the backward pass and the update."""
        found = dict(self._answers)
        for name, module in self._network.named_modules():
            own = [p for p in module.parameters(recurse=False) if p.ndim > 1 and p.grad is not None]
            if own:
                heard = found.get(name, Layer())
                found[name] = Layer(
                    gradient_ratio=_norm([p.grad for p in own]) / max(_norm(own), 1e-12),
                    activation_rms=heard.activation_rms,
                    dead_ratio=heard.dead_ratio,
                )
        return found

    def _hear(self, name: str, output: Any) -> None:
        # A container answers with its last part's own tensor: that was heard already.
        if not isinstance(output, Tensor) or output is self._latest or not output.is_floating_point():
            return
        self._latest = output
        values = output.detach().float()
        if values.ndim < 2 or len(values) < 2:
            return
        units_UX = values.movedim(1 if values.ndim > 3 else -1, 0).flatten(1)  # channels of images, else the last axis
        dead_U = units_UX.amax(dim=1) == units_UX.amin(dim=1)
        self._answers[name] = Layer(
            activation_rms=float(values.square().mean().sqrt()),
            dead_ratio=float(dead_U.float().mean()) if len(dead_U) >= _MIN_UNITS else None,
        )


def notes(layers: dict[str, Layer]) -> tuple[str, ...]:
    """What is wrong with the layers, a sentence a kind of trouble; empty when nothing is."""
    ratios = {name: layer.gradient_ratio for name, layer in layers.items() if layer.gradient_ratio is not None}
    largest = max(ratios.values(), default=0.0)
    vanishing = [name for name, ratio in ratios.items() if ratio < VANISHING * largest]
    exploding = [name for name, ratio in ratios.items() if not ratio <= EXPLODING]
    dead = [name for name, layer in layers.items() if (layer.dead_ratio or 0.0) >= DEAD_RATIO]
    said = (
        (vanishing, "the gradient vanishes in", "try normalisation, shortcuts or another initialisation"),
        (exploding, "the gradient explodes in", "set clip_norm, or lower peak_learning_rate"),
        (dead, "nearly all units answer the same to every sample in", "lower peak_learning_rate, or start anew"),
    )
    return tuple(f"{what} {_named(names)}: {advice}" for names, what, advice in said if names)


def first_not_finite(network: nn.Module, inputs: Sequence[Tensor]) -> str | None:
    """The first module, in the order of computing, that answers NaN or infinity to these inputs."""
    found: list[str] = []

    def hear(name: str, output: Any) -> None:
        tensors = as_tuple(output) if isinstance(output, Tensor | tuple | list) else ()
        if not found and any(isinstance(t, Tensor) and not bool(t.isfinite().all()) for t in tensors):
            found.append(name)

    hooks = [module.register_forward_hook(_listener(hear, name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _listener(hear: Any, name: str) -> Any:
    def listen(module: nn.Module, inputs: Any, output: Any) -> None:
        hear(name, output)

    return listen


def _norm(tensors: Sequence[Tensor | None]) -> float:
    return float(torch.stack([whole(t.detach()).float().norm() for t in tensors if t is not None]).norm())


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NUM_NAMED])
    more = len(names) - _NUM_NAMED
    return f"{'layer' if len(names) == 1 else 'layers'} {shown}{f' and {more} more' if more > 0 else ''}"
