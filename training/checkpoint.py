"""A training run's whole state in one safetensors file: weights, the optimizer's tensors, and where the run stands.

Safetensors holds numbers and never code, and one file can be replaced atomically. What isn't a tensor travels as JSON
in the file's metadata; Python writes a float's shortest exact form, so sums come back bit for bit.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from training.durable import write_atomically
from training.error import RunMismatch
from training.group import spread_like, whole

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """Means over one finished epoch: of its steps while training, of the validation split after it.

    `notes` say what was wrong with the layers when they were last looked at, a sentence each.
    """

    loss: float
    score: float
    validation_loss: float
    validation_score: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands: steps done, finished epochs, sums over the steps of the open one, seconds spent."""

    step: int = 0
    epochs: tuple[Epoch, ...] = ()
    loss_sum: float = 0.0
    score_sum: float = 0.0
    time_s: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """Everything that training goes on from: tensors by dotted name, and what isn't a tensor."""

    tensors: Mapping[str, Tensor]
    scalars: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module, optimizer: Optimizer) -> "State":
        """The state of a network and its optimizer; where they are spread over processes, all call it together."""
        tensors = {f"network.{name}": whole(tensor) for name, tensor in network.state_dict().items()}
        scalars: dict[str, Any] = {}
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                name = f"optimizer.{index}.{key}"
                if isinstance(value, Tensor):
                    tensors[name] = whole(value)
                else:
                    scalars[name] = value
        return cls(tensors=tensors, scalars=scalars)

    def below(self, prefix: str) -> dict[str, Any]:
        """What has a name that begins so, without the beginning."""
        everything = {**self.tensors, **self.scalars}
        return {n.removeprefix(f"{prefix}."): value for n, value in everything.items() if n.startswith(f"{prefix}.")}

    def restore_optimizer(self, optimizer: Optimizer) -> None:
        """Put the optimizer where it stood; its parameters may be spread over processes by now."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for name, value in self.below("optimizer").items():
            index, _, key = name.partition(".")
            if isinstance(value, Tensor):
                value = spread_like(value, parameters[int(index)])
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def write(path: Path, state: State, progress: Progress) -> None:
    """Replace the checkpoint atomically and durably."""
    metadata = {"progress": json.dumps(asdict(progress)), "scalars": json.dumps(dict(state.scalars))}
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    write_atomically(path, save(contiguous, metadata))


def load(path: Path) -> tuple[State, Progress]:
    """What was written; raises RunMismatch for a file that is no checkpoint."""
    with explained(path), safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        return State(tensors=tensors, scalars=json.loads(metadata["scalars"])), _progress(metadata["progress"])


def read_progress(path: Path) -> Progress:
    """Where the run stands, without its tensors; raises RunMismatch for a file that is no checkpoint."""
    with explained(path), safe_open(path, framework="pt") as file:
        return _progress(file.metadata()["progress"])


def read(path: Path, network: nn.Module, optimizer: Optimizer | None) -> Progress:
    """Load the checkpoint into the network and, where one is given, the optimizer.

    Raises RunMismatch when it is another network's, or no checkpoint at all.
    """
    state, progress = load(path)
    with explained(path):
        network.load_state_dict(state.below("network"))
        if optimizer is not None:
            state.restore_optimizer(optimizer)
    return progress


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Whatever a checkpoint of something else makes torch or safetensors say becomes one RunMismatch."""
    try:
        yield
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError, IndexError) as exc:
        first_line = f"{exc}".strip().partition("\n")[0]
        raise RunMismatch(
            f"{path} is no checkpoint of this recipe's network ({first_line:.120}): "
            "delete its folder to train anew, or go back to the code it was made with"
        ) from exc


def _progress(text: str) -> Progress:
    saved = json.loads(text)
    epochs = tuple(Epoch(**{**epoch, "notes": tuple(epoch.get("notes", ()))}) for epoch in saved["epochs"])
    return Progress(**{**saved, "epochs": epochs, "notes": tuple(saved.get("notes", ()))})
