"""A search for hyperparameters: many runs of the ordinary loop, each with a changed configuration, by Optuna.

Sampler: tree-structured Parzen estimator (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization"). Pruner:
a run is given up when it is worse than the median of the others at the same epoch. Importance: PED-ANOVA (Watanabe et
al. 2023, arXiv 2304.10255).

What was tried is in one SQLite file, so a search that was killed goes on: the trial it was in goes on from its own
checkpoint, and the next ones are drawn as they would have been, for a draw's seed follows from the number of trials
before it.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from training import run_folder
from training.checkpoint import Epoch, Progress
from training.config import TrainConfig
from training.data import Dataset
from training.durable import explanation
from training.error import Diverged, RunFailed
from training.lock import exclusive
from training.loop import train
from training.recipe import Recipe
from training.space import Between, OneOf, Space, apply, check
from training.standing import kept_epoch

SWEEP_FILE = "sweep.sqlite"
_NUM_RANDOM = 6  # trials before the sampler believes what it has seen
_NUM_UNPRUNED = 4  # trials before a median means anything
_MIN_FOR_IMPORTANCE = 8  # finished trials; of fewer, it would be noise
_STATES = {TrialState.COMPLETE: "done", TrialState.PRUNED: "given up"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One configuration that was tried: what differs from the recipe's, and the validation score it came to.

    The score of a trial that was given up is its last one, None when it diverged before its first epoch ended.
    """

    number: int
    state: str
    values: Mapping[str, Any]
    score: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """All trials in their order, the best of those that were trained to their end, and what mattered.

    `importance` are shares of what the values explain, by name; empty while there are too few trials to say.
    `ran_out_of_time` means that the number of trials that was asked for wasn't reached.
    """

    trials: tuple[Trial, ...]
    best: Trial | None
    config: TrainConfig
    importance: Mapping[str, float]
    ran_out_of_time: bool


class _OutOfTimeError(Exception):
    """The search's time is up in the middle of a trial, which the next call goes on with."""


def sweep_folder(runs_dir: Path, recipe: Recipe) -> Path:
    """The search's folder, beside the recipe's run: deleting that to train anew keeps what was found here."""
    return runs_dir / f"{recipe.name}.sweep"


def sweep(
    recipe: Recipe,
    dataset: Dataset,
    space: Space,
    *,
    runs_dir: Path,
    num_trials: int,
    timeout_s: float,
    tried: Callable[[Trial], None] = lambda trial: None,
    clock: Callable[[], float] = time.monotonic,
) -> Sweep:
    """Search until there are `num_trials` finished trials in all, or for `timeout_s` seconds; `tried` is told of each.

    The recipe's own configuration is tried first where the space holds it: then what is found is never worse. Raises
    SpaceInvalid for a space that doesn't fit, LockTimeout when another process searches, RunFailed for a full disk.
    """
    check(space, recipe.config)
    deadline = clock() + timeout_s
    with _opened(sweep_folder(runs_dir, recipe), recipe, dataset, space) as study:
        _take_up(study, space, recipe.config)
        ran_out_of_time = False
        while len(finished := _finished(study)) < num_trials and not ran_out_of_time:
            seed = (recipe.config.seed + len(finished)) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_NUM_RANDOM)
            trial = study.ask({name: _distribution(part) for name, part in sorted(space.items())})
            try:
                _try(study, trial, recipe, dataset, sweep_folder(runs_dir, recipe), lambda: clock() > deadline)
            except _OutOfTimeError:
                ran_out_of_time = True
            else:
                tried(_trial(_finished(study)[-1]))
        return _outcome(study, recipe, ran_out_of_time)


class _Judge:
    """A Watcher that tells the study of every epoch, and ends a run that is given up or out of time."""

    def __init__(self, trial: optuna.Trial, config: TrainConfig, is_late: Callable[[], bool]) -> None:
        self._trial = trial
        self._config = config
        self._is_late = is_late
        self._epochs: list[Epoch] = []

    @property
    def score(self) -> float:
        """The validation score of the weights that would be kept now."""
        kept = kept_epoch(self._config, self._epochs)
        assert kept is not None
        return kept.validation_score

    def began(self, progress: Progress, num_steps: int, steps_per_epoch: int, /) -> None:
        """Tell of the epochs that an earlier process trained."""
        for epoch in progress.epochs:
            self._tell(epoch)

    def stepped(self, progress: Progress, /) -> None:
        """Raise when time is up."""
        if self._is_late():
            raise _OutOfTimeError

    def ended_epoch(self, epoch: Epoch, /) -> None:
        """Tell of it; raise when the run isn't worth going on."""
        self._tell(epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned

    def _tell(self, epoch: Epoch) -> None:
        self._epochs.append(epoch)
        self._trial.report(self.score, len(self._epochs))


def _try(
    study: optuna.Study,
    trial: optuna.Trial,
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    is_late: Callable[[], bool],
) -> None:
    """Train one configuration, in a folder named by it: so a trial that is taken up finds its checkpoint."""
    config = apply(recipe.config, trial.params)
    changed = replace(recipe, name=f"{recipe.name}.{_digest(asdict(config))[:16]}", config=config)
    judge = _Judge(trial, config, is_late)
    with run_folder.opened(folder, changed, dataset) as run:
        try:
            train(changed, dataset, run, judge)
            study.tell(trial, judge.score)
        except (optuna.TrialPruned, Diverged):
            study.tell(trial, state=TrialState.PRUNED)
    shutil.rmtree(run.folder)


@contextmanager
def _opened(folder: Path, recipe: Recipe, dataset: Dataset, space: Space) -> Iterator[optuna.Study]:
    """The study of this recipe, data and space, held against other processes; another space is another study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    identity = {**recipe.describe(), "data_sha256": dataset.sha256, "space": {n: asdict(p) for n, p in space.items()}}
    try:
        with exclusive(folder / "lock", f"the search in {folder}"):
            storage = optuna.storages.RDBStorage(f"sqlite:///{folder / SWEEP_FILE}")
            try:
                yield optuna.create_study(
                    storage=storage,
                    study_name=f"{recipe.name}-{_digest(identity)[:16]}",
                    direction="maximize",
                    pruner=optuna.pruners.MedianPruner(n_startup_trials=_NUM_UNPRUNED, n_warmup_steps=1),
                    load_if_exists=True,
                )
            finally:
                storage.engine.dispose()
    except OSError as exc:
        raise RunFailed(explanation(exc, folder)) from exc


def _take_up(study: optuna.Study, space: Space, config: TrainConfig) -> None:
    """Put first what comes first: in a new study the recipe's own values, in another the trial that was cut off."""
    if not study.trials:
        own = {name: getattr(config, name) for name in space}
        study.enqueue_trial({name: value for name, value in own.items() if _holds(space[name], value)})
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _holds(part: Between | OneOf, value: Any) -> bool:
    return part.low <= value <= part.high if isinstance(part, Between) else value in part.values


def _distribution(part: Between | OneOf) -> BaseDistribution:
    if isinstance(part, OneOf):
        return CategoricalDistribution(part.values)
    if isinstance(part.low, int) and isinstance(part.high, int):
        return IntDistribution(part.low, part.high, log=part.log)
    return FloatDistribution(part.low, part.high, log=part.log)


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=tuple(_STATES))


def _trial(trial: FrozenTrial) -> Trial:
    last = trial.intermediate_values[trial.last_step] if trial.last_step is not None else None
    return Trial(number=trial.number, state=_STATES[trial.state], values=trial.params, score=last)


def _outcome(study: optuna.Study, recipe: Recipe, ran_out_of_time: bool) -> Sweep:
    trials = tuple(_trial(trial) for trial in _finished(study))
    done = [trial for trial in trials if trial.state == _STATES[TrialState.COMPLETE] and trial.score is not None]
    best = max(done, key=lambda trial: trial.score or 0.0, default=None)
    return Sweep(
        trials=trials,
        best=best,
        config=recipe.config if best is None else apply(recipe.config, best.values),
        importance=_importance(study) if len(trials) >= _MIN_FOR_IMPORTANCE and len(done) > 1 else {},
        ran_out_of_time=ran_out_of_time,
    )


def _importance(study: optuna.Study) -> dict[str, float]:
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
