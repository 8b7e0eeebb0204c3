"""What a recipe learns from: three splits of one data set, as the contract's input tensors and their targets.

The inputs are what the gateway's preprocessing makes of the same sample, so nothing can differ between training and
serving; arithmetic on them is the network's own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.tensor import Tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Input tensors `[M, ...]` by name, targets `[M, ...]`, and features that only the original shows (`[M]` each).

    Where a sample has several targets, `several` makes one array of them, whose fields have their names.
    `lesson` is what the network is called with while it learns, in this order, where that isn't what it answers from:
    a decoder that is shown the right words so far, or a whole text where it later goes on word by word.
    """

    inputs: Tensors
    targets: NDArray[Any]
    observed: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    lesson: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Every array has the same number of samples."""
        sizes = {
            len(array)
            for array in (*self.inputs.values(), self.targets, *self.observed.values(), *self.lesson.values())
        }
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"expected arrays of one length above 0, got {sorted(sizes)}")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.targets)

    def take(self, chosen: NDArray[np.intp] | slice) -> "Split":
        """The samples chosen by index."""
        return Split(
            inputs={name: array[chosen] for name, array in self.inputs.items()},
            targets=self.targets[chosen],
            observed={name: array[chosen] for name, array in self.observed.items()},
            lesson={name: array[chosen] for name, array in self.lesson.items()},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The network learns from `train`, `validation` shows how it goes, `test` is looked at once, at the end.

    `sha256` is of the data and how it was split: a run that began on another one refuses to resume. `files` are what a
    version needs beside its graph, by name, such as the tokenizer that the texts were cut by.
    """

    name: str
    sha256: str
    train: Split
    validation: Split
    test: Split
    files: Mapping[str, bytes] = field(default_factory=dict)

    def limited(self, num_train: int | None) -> "Dataset":
        """The same data set with only the first samples of its training split."""
        return self if num_train is None else replace(self, train=self.train.take(slice(num_train)))


def digest(splits: Mapping[str, Split], files: Mapping[str, bytes]) -> str:
    """SHA-256 of all that splits and files hold: for data whose making has too many parts for each to be named."""
    state = hashlib.sha256()
    for name, part in splits.items():
        named = {"inputs": part.inputs, "targets": {"": part.targets}, "observed": part.observed, "lesson": part.lesson}
        for kind, arrays in named.items():
            for key, array in arrays.items():
                state.update(f"{name} {kind} {key} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    for name, content in files.items():
        state.update(f"{name} {len(content)}\n".encode() + content)
    return state.hexdigest()


def several(targets: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Targets `[M, ...]` by name as one structured array `[M]`: `array[name]` is `[M, ...]` again."""
    sizes = {len(array) for array in targets.values()}
    if len(sizes) != 1:
        raise ValueError(f"expected targets of one length, got {sorted(sizes)}")
    fields = [(name, array.dtype, array.shape[1:]) for name, array in targets.items()]
    together = np.empty(sizes.pop(), dtype=fields)
    for name, array in targets.items():
        together[name] = array
    return together


def split(samples: Split, num_validation: int, seed: int) -> tuple[Split, Split]:
    """Training and validation split: every sample in exactly one of them, chosen by the seed.

    Raises ValueError when `num_validation` leaves nothing for one of the two.
    """
    if not 0 < num_validation < len(samples):
        raise ValueError(f"expected a validation split of 1 to {len(samples) - 1} samples, got {num_validation}")
    order = np.random.default_rng(seed).permutation(len(samples))
    return samples.take(order[num_validation:]), samples.take(order[:num_validation])


def grouped(
    samples: Split, group_M: NDArray[np.intp], *, num_validation: int, num_test: int, seed: int
) -> tuple[Split, Split, Split]:
    """Training, validation and test split: whole groups in each, chosen by the seed.

    Groups are numbered from 0, and none is divided: the sizes may differ a little from what is asked for.
    """
    place_M = np.argsort(np.random.default_rng(seed).permutation(group_M.max() + 1))[group_M]
    samples, place_M = samples.take(np.argsort(place_M, kind="stable")), np.sort(place_M)
    first, second = (int(np.searchsorted(place_M, place_M[at])) for at in (num_test, num_test + num_validation))
    train = samples.take(slice(second, None))
    # Groups lie together: what a quick run takes of the training split must be a mixture.
    mixed = train.take(np.random.default_rng(seed).permutation(len(train)))
    return mixed, samples.take(slice(first, second)), samples.take(slice(first))
