"""Real images: Fashion-MNIST's test set turned, blurred, made noisy or of other classes, by the gateway's own features.

The first half of the test set is the reference, looks are drawn from the other half. What each shift costs in accuracy
is measured on that half too, so that it can be said which shifts had to be found.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.drift.library import NUM_SAMPLES, DataSet
from bench.drift.published import Published, categorical
from tidegate.shift import parse_shift

MODEL, RECIPE = "fashion-mnist", "fashion-resnet"
SHIFTS = ("rotate:10", "rotate:30", "noise:0.02", "noise:0.1", "blur:0.7", "blur:1.5", "location:0.3")
FAVOURED_SHARE = 0.3  # of traffic that is one class, instead of a tenth

Array = NDArray[Any]


def image_sets(repository: Path, num_looks: int, seed: int) -> Iterator[DataSet]:
    """Data sets of the features that a gateway counts; raises BenchError where no such model is published."""
    from training.recipe import find

    model = Published(repository, MODEL, RECIPE)
    test = find(RECIPE).load(None).test
    images, targets = next(iter(test.inputs.values())), np.asarray(test.targets)
    half = len(images) // 2
    reference, names, _ = model.look(images[:half], targets[:half])
    held, labels = images[half:], targets[half:]
    plain, _, right = model.look(held, labels)
    for name, shifted in _shifted(held, labels, seed):
        values, _, accuracy = model.look(held if shifted is None else shifted(held), labels)
        random = np.random.default_rng((seed, len(name)))
        chosen = [_draw(random, labels, name) for _ in range(num_looks)]
        cost = float(right.mean() - accuracy[np.concatenate(chosen)].mean())
        yield DataSet(
            name=f"images, {name}",
            features=names,
            reference=reference,
            looks=np.stack([(plain if shifted is None else values)[rows] for rows in chosen]),
            categorical=categorical(names),
            note=f"{100 * cost:.1f} points of accuracy",
        )


def _shifted(held: Array, labels: Array, seed: int) -> Iterator[tuple[str, Callable[[Array], Array] | None]]:
    yield "no shift", None
    yield "class", None
    for text in SHIFTS:
        yield text, lambda images, text=text: parse_shift(text)(images, np.random.default_rng(seed))  # type: ignore[misc]


def _draw(random: np.random.Generator, labels: Array, name: str) -> Array:
    """Rows of one look."""
    if name != "class":
        return random.choice(len(labels), NUM_SAMPLES, replace=False)
    weights = np.where(labels == 0, FAVOURED_SHARE / (labels == 0).sum(), (1 - FAVOURED_SHARE) / (labels != 0).sum())
    return random.choice(len(labels), NUM_SAMPLES, replace=False, p=weights / weights.sum())
