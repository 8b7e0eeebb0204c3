"""How far the runs in a folder have come, read from their files alone: no data, no network, and no lock.

A run may be going on meanwhile; its files are replaced whole, so what is read here was true a moment ago.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.checkpoint import CHECKPOINT_FILE, Epoch, Progress, read_progress
from training.config import TrainConfig
from training.error import RunMismatch
from training.run_folder import RUN_FILE
from training.stopping import best_epoch, is_finished


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """One run. `updated_at` is in seconds since 1970; `problem` says why the run can't be read, if it can't."""

    name: str
    updated_at: float
    config: TrainConfig = field(default_factory=TrainConfig)
    progress: Progress = field(default_factory=Progress)
    score_name: str = "score"
    problem: str = ""

    @property
    def kept(self) -> Epoch | None:
        """The finished epoch whose weights the run would be published with; None before the first."""
        return kept_epoch(self.config, self.progress.epochs)

    @property
    def state(self) -> str:
        """In words: not begun, at which epoch, trained, or why it can't be read."""
        done, planned = len(self.progress.epochs), self.config.epochs
        if self.problem:
            return self.problem
        if self.progress.step == 0:
            return "not begun"
        # With whole epochs behind it a run's steps tell how many samples it learns from; before that it isn't finished.
        num_train = self.progress.step // max(1, done) * self.config.batch_size
        if done and is_finished(self.config, self.progress, num_train):
            return "trained" if done >= planned else f"trained, stopped early after epoch {done} of {planned}"
        return f"in epoch {done + 1} of {planned}"


def kept_epoch(config: TrainConfig, epochs: Sequence[Epoch]) -> Epoch | None:
    """The best epoch where training goes back to it, else the last one."""
    if not epochs:
        return None
    return epochs[-1] if config.patience is None else epochs[best_epoch(config, epochs)]


def standings(runs_dir: Path) -> list[Standing]:
    """Every run in the folder, the one that was written to last first."""
    found = [standing(file.parent) for file in runs_dir.glob(f"*/{RUN_FILE}")]
    return sorted(found, key=lambda run: -run.updated_at)


def standing(folder: Path) -> Standing:
    """The run in a folder that holds `run.json`."""
    checkpoint = folder / CHECKPOINT_FILE
    begun = checkpoint.is_file()
    updated_at = (checkpoint if begun else folder / RUN_FILE).stat().st_mtime
    try:
        saved = json.loads((folder / RUN_FILE).read_bytes())
        settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in saved["train"].items()}
        return Standing(
            name=folder.name,
            updated_at=updated_at,
            config=TrainConfig(**settings),
            progress=read_progress(checkpoint) if begun else Progress(),
            score_name=str(saved["objective"].get("score_name", "score")),
        )
    except RunMismatch as exc:
        problem = str(exc)
    except (KeyError, TypeError, ValueError, AttributeError):
        problem = f"{folder / RUN_FILE} doesn't say what its run is: delete the folder to train anew"
    return Standing(name=folder.name, updated_at=updated_at, problem=problem)
