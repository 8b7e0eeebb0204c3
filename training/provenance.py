"""Where a version comes from, as far as a person needs to make it again."""

import importlib.metadata
import platform
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from contract.schema import Provenance, TensorSpec
from contract.tensor import Tensors
from training.data import Dataset
from training.forward import tensors_of
from training.recipe import Recipe

_LIBRARIES = ("numpy", "onnx", "onnxruntime", "onnxscript", "safetensors", "torch")
_GIT_TIMEOUT_S = 10.0


def provenance(
    recipe: Recipe, dataset: Dataset, network: nn.Module, machine: dict[str, Any], training_time_s: float
) -> Provenance:
    """The provenance of a network trained by this code, on this machine, now."""
    one = {name: array[:1] for name, array in dataset.validation.inputs.items()}
    gates: list[Any] = [{"metric": g.metric, "at_least": g.at_least, "at_most": g.at_most} for g in recipe.gates]
    return Provenance(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        git_revision=git_revision(Path(__file__).resolve().parent),
        libraries={"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in _LIBRARIES},
        seed=recipe.config.seed,
        data_sha256=dataset.sha256,
        config={**recipe.describe(), "gates": gates, "machine": machine},
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        flops_per_sample=flops(network, one, recipe.inputs),
        training_time_s=round(training_time_s, 3),
    )


def git_revision(folder: Path) -> str:
    """Commit of the folder's repository, `-dirty` behind it when tracked files differ; `unknown` without one."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def flops(network: nn.Module, inputs: Tensors, specs: Sequence[TensorSpec]) -> int:
    """Floating-point operations of one forward pass over the given batch; a multiply and an add are two."""
    network.eval()
    device = next(network.parameters()).device
    backends = torch.backends
    with (  # a recurrent layer as one operation of these libraries would count for nothing
        warnings.catch_warnings(action="ignore", category=UserWarning),  # of the first one, about Intel's GPUs
        backends.mkldnn.flags(enabled=False),
        backends.cudnn.flags(enabled=False),
        torch.inference_mode(),
        FlopCounterMode(display=False) as counter,
    ):
        network(*(tensor.to(device) for tensor in tensors_of(inputs, specs)))
    return int(counter.get_total_flops())
