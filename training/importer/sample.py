"""Samples that a user brings: what the contract is derived from, profiled on and shown by.

A `.npz` file holds one array an input, by its name: `[M, ...]` of M samples, and perhaps `target`, the index of each
one's label. Several files may hold samples of several lengths. For an image model, a folder of image files will do.
"""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.error import InputError
from contract.image import decode
from contract.schema import ImagePreprocess
from contract.tensor import Tensors, datatype_of
from training.importer.error import ImportRefused
from training.importer.graph import Interface, Port

TARGET = "target"
MAX_IMAGES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Samples of one shape.

    `stacked`: the arrays have one axis more than the graph's inputs, which counts samples. Otherwise they are as the
    graph takes them: a batch where it has a batch axis, else one sample.
    """

    inputs: dict[str, NDArray[Any]]
    stacked: bool = False
    targets: NDArray[Any] | None = None
    observed: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def first(self) -> dict[str, NDArray[Any]]:
        """One input of the graph: the first sample, or the whole batch."""
        return {name: np.asarray(array[0]) if self.stacked else array for name, array in self.inputs.items()}

    def rows(self, *, batched: bool) -> dict[str, NDArray[Any]]:
        """Input tensors `[M, ...]` of M samples."""
        as_they_are = batched or self.stacked
        return {name: array if as_they_are else array[np.newaxis] for name, array in self.inputs.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Samples:
    """All that the user brought, in groups of one shape, and the digest of it all."""

    groups: tuple[Group, ...] = ()
    sha256: str = hashlib.sha256().hexdigest()


def read(paths: Sequence[Path], interface: Interface) -> Samples:
    """Read `.npz` files for a graph; raises ImportRefused."""
    digest = hashlib.sha256()
    groups = []
    for path in paths:
        arrays = read_arrays(path)
        for name in sorted(arrays):
            digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode() + arrays[name].tobytes())
        targets = arrays.pop(TARGET, None) if TARGET not in {port.name for port in interface.inputs} else None
        groups.append(_group(path, interface, arrays, targets))
    return Samples(groups=tuple(groups), sha256=digest.hexdigest())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a `.npz` file; raises ImportRefused. Pickled arrays are refused."""
    try:
        with np.load(path, allow_pickle=False) as found:
            if isinstance(found, np.ndarray):
                raise ValueError("it holds one array without a name")
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as exc:
        raise ImportRefused(
            f"expected samples in {path} as numpy.savez writes them, an array an input: {exc!s:.120}"
        ) from exc
    return arrays


def read_images(paths: Sequence[Path], spec: ImagePreprocess) -> Samples:
    """Decode image files, and those in folders, as the gateway will; raises ImportRefused."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files = [file for file in files if file.is_file()][:MAX_IMAGES]
    digest, images = hashlib.sha256(), []
    for file in files:
        data = file.read_bytes()
        digest.update(data)
        try:
            images.append(decode(data, spec))
        except InputError as exc:
            raise ImportRefused(f"sample {file}: {exc}") from exc
    if not images:
        raise ImportRefused(f"expected image files in {', '.join(map(str, paths))}, found none")
    group = Group(
        inputs={spec.tensor: np.stack([image.pixels for image in images])},
        observed={"aspect": np.array([image.aspect for image in images])},
    )
    return Samples(groups=(group,), sha256=digest.hexdigest())


def _group(path: Path, interface: Interface, arrays: Tensors, targets: NDArray[Any] | None) -> Group:
    expected = {port.name: port for port in interface.inputs}
    if arrays.keys() != expected.keys():
        raise ImportRefused(f"{path}: expected the arrays {sorted(expected)}, got {sorted(arrays)!r:.200}")
    arrays = _with_elements(expected, arrays)
    extra = {array.ndim - len(expected[name].axes or ()) for name, array in arrays.items()}
    if extra not in ({0}, {1}) or not all(array.size for array in arrays.values()):
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        graph = {port.name: list(port.axes or ()) for port in interface.inputs}
        raise ImportRefused(f"{path}: expected arrays shaped {graph}, or stacks of such, got {shapes}")
    ready = {}
    for name, array in arrays.items():
        port = expected[name]
        if datatype_of(array) != port.datatype:
            raise ImportRefused(f"{path}: expected {name!r} as {port.datatype}, got {datatype_of(array)}")
        ready[name] = array.astype(object) if port.datatype == "BYTES" else array
    return Group(inputs=ready, targets=targets, stacked=extra == {1})


def _with_elements(expected: Mapping[str, Port], arrays: Tensors) -> dict[str, NDArray[Any]]:
    """The arrays with an axis more where a number stands for a tensor of one element, in a stack of samples too."""
    single = {name for name, port in expected.items() if port.axes == (1,)}
    extra = {array.ndim - len(expected[name].axes or ()) for name, array in arrays.items() if name not in single}
    as_numbers = max(extra, default=0)  # axes that such an array has when it leaves out the element's own
    return {
        name: array[..., np.newaxis] if name in single and array.ndim == as_numbers else array
        for name, array in arrays.items()
    }
