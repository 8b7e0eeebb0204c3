"""`python -m bench ablation`: what each choice of a training changes, one at a time, by the same loop as every recipe.

A compact form of the network of `fashion-vgg` learns from a part of Fashion-MNIST with every choice as in that recipe,
and then with one changed; each with the same seeds. What is judged are pictures of the training split that nobody
learned from, so the test split stays unseen. Finished runs are kept in `run/bench/ablation.json`, and one that was cut
off goes on from its checkpoint.
"""

import hashlib
import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import Field
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.choice import CHOICES, HIDDEN, WIDTHS, Choice
from bench.machine import Machine, this_machine
from contract.document import Document
from training import run_folder
from training.checkpoint import Epoch
from training.checkpoint import Progress as Standing
from training.config import TrainConfig
from training.data import Dataset, Split
from training.durable import write_atomically
from training.error import Diverged
from training.evaluation import measure
from training.forward import predict
from training.loop import num_steps, train
from training.recipe import Recipe
from training.recipes.fashion_convolution import FASHION_VGG

SEEDS = (1, 2, 3)
NUM_TRAIN, NUM_WATCHED, NUM_JUDGED = 8_192, 500, 20_000
CONFIG = replace(FASHION_VGG.config, epochs=5, num_train=NUM_TRAIN)


class Outcome(Document):
    """What one run came to on the judged pictures; no figures where it diverged. `cpu_s` is over all threads."""

    seed: int
    accuracy: float | None = None
    log_loss: float | None = None
    cpu_s: float | None = None


class Row(Document):
    """One choice with each seed."""

    topic: str
    name: str
    outcomes: tuple[Outcome, ...]


class AblationResult(Document):
    """One table; the first row is the compact network with every choice of the recipe."""

    machine: Machine
    rows: tuple[Row, ...]


class Known(Document):
    """Finished runs by what they are."""

    outcomes: dict[str, Outcome] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Self:
        """What the file holds, or nothing where there is none."""
        return cls.model_validate_json(path.read_bytes()) if path.is_file() else cls()

    def save(self, path: Path) -> None:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.model_dump_json(indent=1).encode())


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is trained, how often, and how long."""

    choices: tuple[Choice, ...] = CHOICES
    seeds: tuple[int, ...] = SEEDS
    config: TrainConfig = CONFIG
    num_judged: int = NUM_JUDGED


def run(state: Path, console: Console, plan: Plan = Plan()) -> AblationResult:
    """Train what isn't known yet, and answer a row for each choice; raises TrainingError."""
    file = state / "ablation.json"
    dataset, judged = _data(FASHION_VGG.load(None), plan)
    known = dict(Known.load(file).outcomes)
    rows: list[list[Outcome]] = [[] for _ in plan.choices]
    with _Bar(console, plan) as bar:
        for seed in plan.seeds:  # outermost: a table that was cut off is whole for some seeds
            for choice, row in zip(plan.choices, rows, strict=True):
                recipe = choice.recipe(seed, plan.config)
                key = _identity(recipe, choice, dataset, plan)
                bar.begins(f"{choice.topic}: {choice.name}, seed {seed}")
                if key not in known:
                    known[key] = _outcome(replace(recipe, name=key), dataset, judged, state / "ablation", bar)
                    Known(outcomes=known).save(file)
                row.append(known[key])
    return AblationResult(
        machine=this_machine(),
        rows=tuple(
            Row(topic=choice.topic, name=choice.name, outcomes=tuple(row))
            for choice, row in zip(plan.choices, rows, strict=True)
        ),
    )


def _data(dataset: Dataset, plan: Plan) -> tuple[Dataset, Split]:
    """The data set with a small part to learn from, and as many pictures as are judged out of the rest."""
    num_train = plan.config.num_train
    assert num_train is not None
    judged = dataset.train.take(slice(num_train, num_train + plan.num_judged))
    watched = dataset.validation.take(slice(NUM_WATCHED))
    return replace(dataset.limited(num_train), validation=watched), judged


def _identity(recipe: Recipe, choice: Choice, dataset: Dataset, plan: Plan) -> str:
    """A name that changes with everything that the outcome depends on, but for the code."""
    parts = {
        "recipe": recipe.describe(),
        "network": {"widths": WIDTHS, "hidden": HIDDEN, **asdict(choice.switches)},
        "data": [dataset.sha256, plan.num_judged],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _outcome(recipe: Recipe, dataset: Dataset, judged: Split, runs_dir: Path, bar: "_Bar") -> Outcome:
    seed = recipe.config.seed
    with run_folder.opened(runs_dir, recipe, dataset) as opened:
        try:
            # The processor's time: whatever else the machine does isn't in it.
            trained = train(recipe, dataset, opened, bar, clock=time.process_time)
            outputs = predict(trained.network, judged.inputs, recipe.inputs, recipe.outputs)
            accuracy, log_loss, *_ = (m.metric.value for m in measure(recipe.postprocess, outputs, judged.targets))
            outcome = Outcome(seed=seed, accuracy=accuracy, log_loss=log_loss, cpu_s=trained.progress.time_s)
        except Diverged:
            outcome = Outcome(seed=seed)
    shutil.rmtree(opened.folder)
    return outcome


class _Bar:
    """A Watcher that shows how far the whole table is; a context manager."""

    def __init__(self, console: Console, plan: Plan) -> None:
        assert plan.config.num_train is not None
        self._num_steps, _ = num_steps(plan.config, plan.config.num_train)
        self._num_begun = 0
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=self._num_steps * len(plan.seeds) * len(plan.choices))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begins(self, what: str) -> None:
        """Say which run comes now."""
        self._bar.update(self._task, description=what, completed=self._num_begun * self._num_steps)
        self._num_begun += 1
        if not self._console.is_terminal:
            self._console.print(what, highlight=False, markup=False)

    def began(self, progress: Standing, num_steps: int, steps_per_epoch: int, /) -> None:
        """Go on where the run stands."""
        self._bar.advance(self._task, progress.step)

    def stepped(self, progress: Standing, /) -> None:
        """Advance by a step."""
        self._bar.advance(self._task)

    def ended_epoch(self, epoch: Epoch, /) -> None:
        """Nothing to say."""
