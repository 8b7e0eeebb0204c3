"""A recipe small enough to train in a second, and a script that is killed while it trains or publishes.

    python tiny.py train RUNS STEP,STEP,... [BYTES]   killed at each of the steps, once more in the middle of
                                                      writing a checkpoint (after BYTES), then let alone
    python tiny.py everything RUNS STEP,STEP,...      the same with everything switched on that a run can be told
    python tiny.py publish FOLDER                     killed at every step, each in its own repository
    python tiny.py together FOLDER                    trained by two processes, whole and with one killed on the way

Processes are forked before torch starts a thread, so torch is imported once; but those that train together aren't.
"""

import dataclasses
import hashlib
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from contract import Contract, Repository
from contract.digest import artifact
from contract.profile import Profile
from contract.schema import (
    AxisRange,
    ClassificationPostprocess,
    Evaluation,
    ImagePreprocess,
    Metric,
    Provenance,
    Slo,
    TensorSpec,
)
from training import distributed, publication, run_folder
from training.augmentation import FlipAndShift
from training.checkpoint import Epoch, Progress
from training.config import TrainConfig
from training.data import Dataset, Split, split
from training.error import RunFailed
from training.gate import Gate
from training.group import Group
from training.loop import train
from training.network.pixel import PixelScale
from training.network.residual import ResidualNetwork
from training.objective import Classification
from training.recipe import Recipe

SIDE_PX = 8
LABELS = ("top", "middle", "bottom")
PUBLISH_STEPS = ("number given out", "save", "sync", "rename version", "replace config", "rename model", "done")


def load(data_dir: Path | None = None, *, seed: int = 0) -> Dataset:
    """Grey noise with one bright band; the label says where the band is."""
    rng = np.random.default_rng(seed)
    label_N = rng.integers(0, len(LABELS), 320)
    image_NHWC = rng.integers(0, 120, (320, SIDE_PX, SIDE_PX, 1), dtype=np.uint8)
    for image_HWC, label in zip(image_NHWC, label_N, strict=True):
        image_HWC[1 + 2 * label : 3 + 2 * label] += 100
    everything = Split(inputs={"image": image_NHWC}, targets=label_N, observed={"aspect": np.ones(320)})
    learned, held_out = split(everything, 160, seed)
    validation, test = held_out.take(slice(64)), held_out.take(slice(64, None))
    digest = hashlib.sha256(image_NHWC.tobytes()).hexdigest()
    return Dataset(name="bands", sha256=digest, train=learned, validation=validation, test=test)


def network() -> ResidualNetwork:
    return ResidualNetwork(PixelScale([0.3], [0.2]), widths=(4, 8), num_classes=len(LABELS))


INPUT = TensorSpec(name="image", datatype="UINT8", shape=(SIDE_PX, SIDE_PX, 1))
OUTPUT = TensorSpec(name="logits", datatype="FP32", shape=(len(LABELS),))
CONFIG = TrainConfig(epochs=4, batch_size=16)
RECIPE = Recipe(
    name="bands",
    model="bands",
    task="image-classification",
    description="Says where the band is.",
    load=load,
    network=network,
    objective=Classification(),
    augment=FlipAndShift(max_shift_px=0),
    inputs=(INPUT,),
    outputs=(OUTPUT,),
    batch=AxisRange(min=1, opt=4, max=8),
    preprocess=ImagePreprocess(tensor="image", mode="L", height=SIDE_PX, width=SIDE_PX),
    postprocess=ClassificationPostprocess(tensor="logits", labels=LABELS),
    slo=Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
    config=CONFIG,
    gates=(Gate(metric="accuracy", at_least=0.8),),
    quick_config=dataclasses.replace(CONFIG, epochs=1, num_train=32),
    quick_gates=(Gate(metric="log_loss", at_most=10.0),),
)


class Unwatched:
    """A watcher that calls `then` after each step."""

    def __init__(self, then: Callable[[int], None] = lambda step: None) -> None:
        self.then = then

    def began(self, progress: Progress, num_steps: int, steps_per_epoch: int, /) -> None:
        pass

    def stepped(self, progress: Progress, /) -> None:
        self.then(progress.step)

    def ended_epoch(self, epoch: Epoch, /) -> None:
        pass


def contract(version: int, folder: Path, *, batch_max: int = 8, files: tuple[str, ...] = ("model.onnx",)) -> Contract:
    """A contract for a version whose files are stand-ins: publishing looks at digests, and at where weights lie."""
    for name in files:
        graph = onnx.helper.make_graph([], f"{name} of {version}", [], [])
        (folder / name).write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return Contract(
        name=RECIPE.model,
        version=version,
        task=RECIPE.task,
        inputs=RECIPE.inputs,
        outputs=RECIPE.outputs,
        batch=AxisRange(min=1, opt=4, max=batch_max),
        preprocess=RECIPE.preprocess,
        postprocess=RECIPE.postprocess,
        slo=RECIPE.slo,
        profile=Profile(),
        evaluation=Evaluation(
            dataset="bands", split="test", metrics=(Metric(name="accuracy", value=1, low=1, high=1, num_samples=1),)
        ),
        provenance=Provenance(
            created_at="2025-01-01T00:00:00+00:00",
            git_revision="unknown",
            libraries={},
            seed=1,
            data_sha256="0" * 64,
            config={},
            num_parameters=1,
            flops_per_sample=1,
            training_time_s=1,
        ),
        artifacts=tuple(artifact(folder, name, "model" if name == "model.onnx" else "engine") for name in files),
    )


def killed_at(step: int) -> Callable[[int], None]:
    def kill(now: int) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def train_in(
    runs_dir: Path,
    then: Callable[[int], None] = lambda step: None,
    interval_s: float = 0.0,
    recipe: Recipe = RECIPE,
    events: bool = False,
) -> None:
    dataset = load()
    with run_folder.opened(runs_dir, recipe, dataset) as opened:
        train(recipe, dataset, opened, Unwatched(then), checkpoint_interval_s=interval_s, events=events)


def train_in_little_space(runs_dir: Path, size_bytes: int) -> None:
    """The kernel kills whoever writes a file beyond the limit: here a checkpoint, half-way through."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
    train_in(runs_dir)


def changed(**config: object) -> Recipe:
    return dataclasses.replace(RECIPE, config=dataclasses.replace(CONFIG, **config))  # type: ignore[arg-type]


# FP16 brings a loss scale that grows and shrinks; a patience of one ends the run before its last epoch.
EVERYTHING = changed(
    epochs=6,
    optimizer="adamw",
    peak_learning_rate=0.03,
    schedule="linear",
    precision="fp16",
    accumulation=2,
    clip_norm=1.0,
    patience=1,
    watched="score",
    average=0.9,
)

# What two processes train: with everything that could come out otherwise than in one.
TOGETHER = {
    "alike": changed(epochs=2),
    "sharded": changed(epochs=2, sharded=True, clip_norm=0.5, accumulation=2, patience=1),
}


def train_together_in(folder: Path, names: tuple[str, ...], killed: int | None, group: Group) -> None:
    """Train the named ones; killed at a step, the second process is."""
    for name in names:
        then = killed_at(killed) if killed and group.rank == 1 else lambda step: None
        distributed.train_together(TOGETHER[name], load(), folder / name, Unwatched(then), group)


def publish_in(root: Path, step: str | None) -> None:
    def kill(now: str) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGKILL)

    with publication.draft(Repository(root), RECIPE.model, step=kill) as draft:
        draft.publish(contract(draft.version, draft.folder))


def forked(work: Callable[[], None]) -> str:
    """Run in a process of its own; what became of it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"


def report(name: object, became: str) -> None:
    sys.stdout.write(f"{name} {became}\n")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["train" | "everything" as what, runs, steps, *size_bytes]:
            recipe = RECIPE if what == "train" else EVERYTHING
            start = partial(train_in, Path(runs), recipe=recipe, events=what == "everything")
            for step in filter(None, steps.split(",")):
                # With a checkpoint after every step, or with those at the end of epochs only.
                interval_s = 0.0 if int(step) % 2 else 1e6
                report(step, forked(partial(start, killed_at(int(step)), interval_s)))
            for size in size_bytes:
                report("writing", forked(partial(train_in_little_space, Path(runs), int(size))))
            report("end", forked(start))
        case ["together", folder]:
            launch = partial(distributed.launch, num_processes=2, timeout_s=60)
            launch(partial(train_together_in, Path(folder), ("alike", "sharded"), None))
            report("whole", "trained")
            try:
                launch(partial(train_together_in, Path(folder) / "killed", ("sharded",), 13))
            except RunFailed as exc:
                report("killed", str(exc))
            launch(partial(train_together_in, Path(folder) / "killed", ("sharded",), None))
            report("resumed", "trained")
        case ["publish", folder]:
            for step in PUBLISH_STEPS:
                for earlier in (0, 1):
                    root = Path(folder) / f"{step.replace(' ', '-')}-{earlier}" / "models"
                    for _ in range(earlier):
                        report("earlier", forked(partial(publish_in, root, None)))
                    report(root.parent.name, forked(partial(publish_in, root, step)))


if __name__ == "__main__":
    main(sys.argv[1:])
