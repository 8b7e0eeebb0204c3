"""A run's folder, `<runs>/<recipe>/`: what the run is (`run.json`), and how far it came (the checkpoint).

A run goes on only as what it began as. The number of threads belongs to that, and the number of processes: sums are
split among them, so another number gives other last bits.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from training.checkpoint import CHECKPOINT_FILE
from training.config import TrainConfig
from training.data import Dataset
from training.durable import explanation, write_atomically
from training.error import RunFailed, RunMismatch, RunUnfinished
from training.lock import exclusive
from training.recipe import Recipe

RUN_FILE = "run.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """An open run folder; training uses `num_processes` processes of `num_threads` threads on `device`."""

    folder: Path
    num_threads: int
    device: str
    num_processes: int = 1

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's file, which need not exist yet."""
        return self.folder / CHECKPOINT_FILE


@contextmanager
def opened(
    runs_dir: Path, recipe: Recipe, dataset: Dataset, *, create: bool = True, num_processes: int = 1
) -> Iterator[Run]:
    """Hold the recipe's run folder, made for so many processes when there is none and `create` is set.

    Raises RunMismatch when it belongs to another configuration or other data, RunUnfinished when there is none and
    `create` isn't set, LockTimeout when another process holds it, RunFailed when the disk refuses.
    """
    folder = runs_dir / recipe.name
    file = folder / RUN_FILE
    if not create and not file.is_file():
        raise RunUnfinished(f"{folder} holds no run of {recipe.name}: train it first")
    with _explained(folder), exclusive(folder / "lock", f"the run folder {folder}"):
        identity = {**recipe.describe(), "data_sha256": dataset.sha256}
        if not file.is_file():
            if (folder / CHECKPOINT_FILE).exists():
                raise RunMismatch(f"{folder} holds a checkpoint but no {RUN_FILE}: delete the folder to train anew")
            device = "cuda" if torch.cuda.is_available() else "cpu"
            machine = {"num_threads": torch.get_num_threads(), "device": device, "num_processes": num_processes}
            write_atomically(file, json.dumps({**identity, "machine": machine}, indent=1).encode() + b"\n")
        saved = {"network": identity["network"], **_load(file)}  # a run from before that was said
        machine = saved.pop("machine", {})
        _check_same(folder, _canonical(saved), _canonical(identity))
        if machine["device"] == "cuda" and not torch.cuda.is_available():
            raise RunMismatch(f"{folder} holds a run that began on a GPU, and there is none here: go on where it began")
        yield Run(
            folder=folder,
            num_threads=int(machine["num_threads"]),
            device=str(machine["device"]),
            num_processes=int(machine.get("num_processes", 1)),
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise RunFailed(explanation(exc, folder)) from exc


def _load(file: Path) -> dict[str, Any]:
    try:
        saved = json.loads(file.read_bytes())
        if isinstance(saved, dict) and {"num_threads", "device"} <= set(saved["machine"]):
            # A run from before a setting was there has it at its default.
            return {**saved, "train": {**asdict(TrainConfig()), **saved["train"]}}
    except (ValueError, KeyError, TypeError):
        pass
    raise RunMismatch(f"{file} doesn't say what its run is: delete the folder to train anew")


def _canonical(identity: dict[str, Any]) -> dict[str, str]:
    """Every number under its dotted name, in JSON's form."""
    flat: dict[str, str] = {}
    for key, value in identity.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": text for name, text in _canonical(value).items()}
        else:
            flat[key] = json.dumps(value)
    return flat


def _check_same(folder: Path, saved: dict[str, str], wanted: dict[str, str]) -> None:
    different = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if different:
        shown = ", ".join(f"{n} was {saved.get(n, 'not set')}, is {wanted.get(n, 'not set')}" for n in different)
        raise RunMismatch(
            f"{folder} holds a run with other settings or data ({shown:.300}): delete it to train anew, "
            "or name another folder for runs"
        )
