"""Training by several processes: on the GPUs or cores of one machine, or on many machines.

On one machine `launch` starts the processes, and says in one sentence which of them was lost. On many, torchrun does:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29400 \
        -m training.distributed fashion-resnet --runs /shared/runs

The run folder lies where all machines see it; the first process writes it. A run that lost a process goes on from its
last checkpoint when the same command is given again.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from training import run_folder
from training.data import Dataset
from training.error import RunFailed, TrainingError
from training.group import Group
from training.loop import Trained, Watcher, train
from training.progress import TrainingBar
from training.recipe import Recipe, find
from training.run_folder import Run

TIMEOUT_S = 120.0  # the longest that a process waits for another one: for the start, and in every exchange
_GRACE_S = 5.0

_AGAIN = "start the same command again, and the run goes on from its last checkpoint"


def train_recipe(
    name: str, runs_dir: Path, data_dir: Path | None, group: Group, *, quick: bool = False, events: bool = False
) -> None:
    """What each process does for a recipe: load the data, and train; the first one shows how it goes."""
    recipe = (find(name).quick() if quick else find(name)).begun(runs_dir)
    config = recipe.config
    dataset = recipe.load(data_dir).limited(config.num_train)
    bar = TrainingBar(
        Console(quiet=not group.is_first),
        num_epochs=config.epochs,
        batch_size=config.batch_size,
        score_name=recipe.objective.score_name,
    )
    with bar:
        train_together(recipe, dataset, runs_dir, bar, group, events=events)


def train_together(
    recipe: Recipe, dataset: Dataset, runs_dir: Path, watcher: Watcher, group: Group, *, events: bool = False
) -> Trained:
    """Train in the recipe's run folder; all processes of the group call it.

    Raises what `run_folder.opened` and `train` raise, and RunFailed when another process is lost.
    """
    with _lost_is_said(group), _opened(runs_dir, recipe, dataset, group) as run:
        return train(recipe, dataset, run, watcher, group=group, events=events)


def launch(work: Callable[[Group], None], num_processes: int, *, timeout_s: float = TIMEOUT_S) -> None:
    """Run `work`, which pickles, in so many processes of this machine; what one raises on purpose is raised here.

    Raises RunFailed when a process is lost; the others are ended then.
    """
    if torch.cuda.is_available() and num_processes > torch.cuda.device_count():
        raise RunFailed(
            f"expected at most a process a GPU, {torch.cuda.device_count()}, got {num_processes}: ask for less"
        )
    with TemporaryDirectory() as folder:
        raised: SimpleQueue[TrainingError] = mp.get_context("spawn").SimpleQueue()
        arguments = (work, num_processes, f"file://{folder}/store", timeout_s, raised)
        context = start_processes(  # type: ignore[no-untyped-call]
            _process, arguments, num_processes, join=False, start_method="spawn"
        )
        assert context is not None
        try:
            while not context.join(grace_period=_GRACE_S):
                pass
        except ProcessExitedException:
            _explain([process.exitcode for process in context.processes], raised)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command that torchrun starts in every process; 0 when the run is trained, 1 when a sentence says why not."""
    parser = argparse.ArgumentParser(prog="torchrun ... -m training.distributed", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--runs", type=Path, default=Path("run/training"), help="folder of runs, seen by all machines")
    parser.add_argument("--data", type=Path, help="folder that holds the data set")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tensorboard", action="store_true")
    given = parser.parse_args(arguments)
    rank, size, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if size == 0:
        parser.error("expected to be started by torchrun; on one machine use `tidegate train --processes`")
    signal.signal(signal.SIGTERM, _stopped)
    try:
        with _member(rank, size, local, "env://", TIMEOUT_S) as group:
            train_recipe(given.recipe, given.runs, given.data, group, quick=given.quick, events=given.tensorboard)
    except TrainingError as exc:
        if rank == 0:
            sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


def _process(
    rank: int,
    work: Callable[[Group], None],
    size: int,
    store: str,
    timeout_s: float,
    raised: "SimpleQueue[TrainingError]",
) -> None:
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nothing of this leaves the machine
    try:
        with _member(rank, size, rank, store, timeout_s) as group:
            work(group)
    except TrainingError as exc:
        if rank == 0:
            raised.put(exc)
        sys.exit(1)


@contextmanager
def _member(rank: int, size: int, local_rank: int, store: str, timeout_s: float) -> Iterator[Group]:
    """Belong to the group while the context lasts."""
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s)
    )
    try:
        yield Group(rank=rank, size=size)
    finally:
        dist.destroy_process_group()


@contextmanager
def _opened(runs_dir: Path, recipe: Recipe, dataset: Dataset, group: Group) -> Iterator[Run]:
    """The run folder, held by the first process; the others are told what it is, or why there is none."""
    with ExitStack() as stack:
        told: list[Run | TrainingError | None] = [None]
        if group.is_first:
            try:
                opening = run_folder.opened(runs_dir, recipe, dataset, num_processes=group.size)
                told = [stack.enter_context(opening)]
            except TrainingError as exc:
                told = [exc]
        dist.broadcast_object_list(told, src=0)
        if not isinstance(told[0], Run):
            assert told[0] is not None
            raise told[0]
        yield told[0]


@contextmanager
def _lost_is_said(group: Group) -> Iterator[None]:
    try:
        yield
    except RuntimeError as exc:
        # gloo's errors have no type of their own.
        if not isinstance(exc, dist.DistError) and "gloo" not in str(exc):
            raise
        raise RunFailed(f"process {group.rank} of {group.size} waits for one that is gone or hangs: {_AGAIN}") from exc


def _explain(exit_codes: Sequence[int | None], raised: "SimpleQueue[TrainingError]") -> NoReturn:
    """Say why a job ended: a process that someone killed comes before what the others made of that."""
    for rank, code in enumerate(exit_codes):
        if code is not None and code < 0 and code != -signal.SIGTERM:
            ended = signal.Signals(-code).name
            raise RunFailed(f"process {rank} of {len(exit_codes)} was ended by {ended}: {_AGAIN}")
    if not raised.empty():
        raise raised.get()
    raise RunFailed(f"a process of {len(exit_codes)} ended too early, with exit codes {exit_codes}: {_AGAIN}")


def _stopped(number: int, frame: FrameType | None) -> None:
    raise RunFailed(f"told to stop, as when another process was lost: {_AGAIN}")


if __name__ == "__main__":
    sys.exit(main())
