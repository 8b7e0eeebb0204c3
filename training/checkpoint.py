"""A training run's whole state in one safetensors file: weights, the optimizer's tensors, and where the run stands.

Safetensors holds numbers and never code, and one file can be replaced atomically. What isn't a tensor travels as JSON
in the file's metadata; Python writes a float's shortest exact form, so sums come back bit for bit.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from training.durable import write_atomically
from training.error import RunMismatch

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """Means over one finished epoch: of its steps while training, of the validation split after it."""

    loss: float
    score: float
    validation_loss: float
    validation_score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands: steps done, finished epochs, sums over the steps of the open one, seconds spent."""

    step: int = 0
    epochs: tuple[Epoch, ...] = ()
    loss_sum: float = 0.0
    score_sum: float = 0.0
    time_s: float = 0.0


def write(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Replace the checkpoint atomically and durably."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    scalars: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            (tensors if isinstance(value, Tensor) else scalars)[f"optimizer.{index}.{key}"] = value
    metadata = {"progress": json.dumps(asdict(progress)), "scalars": json.dumps(scalars)}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(contiguous, metadata))


def read(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer | None) -> Progress:
    """Load the checkpoint into the network and, where one is given, the optimizer.

    Raises RunMismatch when it is another network's, or no checkpoint at all.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        saved = json.loads(metadata["progress"])
        progress = Progress(**{**saved, "epochs": tuple(Epoch(**epoch) for epoch in saved["epochs"])})
        network.load_state_dict(_below("network", tensors))
        if optimizer is not None:
            _load_optimizer(optimizer, _below("optimizer", {**tensors, **json.loads(metadata["scalars"])}))
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as exc:
        first_line = str(exc).strip().splitlines()[0]
        raise RunMismatch(
            f"{path} is no checkpoint of this recipe's network ({first_line:.120}): "
            "delete its folder to train anew, or go back to the code it was made with"
        ) from exc
    return progress


def _below(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(f"{prefix}."): value for name, value in values.items() if name.startswith(f"{prefix}.")}


def _load_optimizer(optimizer: torch.optim.Optimizer, values: dict[str, Any]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
