"""A torch network that somebody else wrote: `package.module:make`, its weights in a safetensors file, one real input.

The network is exported by the same code as a recipe's, held against its graph on the samples, and from then on it is a
graph like any other. What varies in length is what varies between the samples, or what the user says.
"""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from contract.digest import sha256_of
from contract.schema import AxisRange, TensorSpec
from contract.tensor import datatype_of
from training.export import ONNX_FILE, export
from training.forward import as_tuple, tensors_of
from training.importer.error import ImportRefused
from training.importer.file import read, refuse_code
from training.importer.graph import interface
from training.importer.model import Derived, derive
from training.importer.publish import Origin
from training.importer.sample import TARGET, read_arrays
from training.importer.wish import Wish
from training.parity import Graph, check
from training.provenance import flops

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """The graph's file, the ranges of its axes by the graph's names, and what was found on the way."""

    path: Path
    axes: dict[str, AxisRange]
    max_error: float
    flops_per_sample: int


def make(source: str, weights: Path | None) -> nn.Module:
    """Call the factory and load the weights; raises ImportRefused. The module is looked for in this folder too."""
    module, _, function = source.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as exc:
        raise ImportRefused(f"expected a function at {source}: {exc}") from exc
    network = factory()
    if not isinstance(network, nn.Module):
        raise ImportRefused(f"expected {source}() to make a torch.nn.Module, it made a {type(network).__name__}")
    if weights is not None:
        _load(network, weights)
    if next(network.parameters(), None) is None:
        raise ImportRefused(f"expected a network with weights, {source}() made one without any")
    return network.eval()


def derive_network(source: str, weights: Path | None, wish: Wish, folder: Path) -> tuple[Derived, Origin]:
    """Derive a contract from a network, through its graph. Raises ImportRefused, ExportFailed or ParityFailed."""
    exported = export_network(make(source, weights), wish, folder / "exported")
    derived = derive(read(exported.path), replace(wish, axes=exported.axes), folder)
    origin = Origin(
        source=source if weights is None else f"{source} with {weights.name}",
        sha256=sha256_of(exported.path if weights is None else weights),
        facts={"max_error_against_torch": exported.max_error, "torch": torch.__version__},
        flops_per_sample=exported.flops_per_sample,
    )
    return derived, origin


def export_network(network: nn.Module, wish: Wish, folder: Path) -> Exported:
    """Export on the samples and hold the graph against the network; raises as `derive_network` does."""
    groups = [_arguments(network, path) for path in wish.samples]
    if not groups:
        raise ImportRefused("expected at least one real input for a torch network: bring it with --sample inputs.npz")
    inputs = _input_specs(groups, wish.axes)
    named, outputs = _output_specs(network, groups[0], inputs)
    folder.mkdir(parents=True)
    path = folder / ONNX_FILE
    export(network, inputs, outputs, wish.batch, path)
    graph = Graph(path, outputs)
    errors = [check(named, graph, group, inputs, outputs, wish.batch)[0].max_error for group in groups]
    one = {name: array[:1] for name, array in groups[0].items()}
    return Exported(
        path=path,
        axes=_by_graph_names(path, inputs),
        max_error=max(errors),
        flops_per_sample=flops(named, one, inputs),
    )


def _by_graph_names(path: Path, inputs: Sequence[TensorSpec]) -> dict[str, AxisRange]:
    """The ranges under the names that the exporter gave to the axes: inputs that share one share its name."""
    ports = {port.name: port.axes or () for port in interface(read(path)).inputs}
    return {str(ports[spec.name][i]): axis for spec in inputs for i, axis in _varying(spec)}


def _load(network: nn.Module, weights: Path) -> None:
    if not weights.is_file():
        raise ImportRefused(f"expected a safetensors file, {weights} is no file")
    with weights.open("rb") as file:
        refuse_code(weights, file.read(64))
    try:
        network.load_state_dict(load_file(weights))
    except SafetensorError as exc:
        raise ImportRefused(f"{weights} is no safetensors file, or a damaged one: {exc!s:.120}") from exc
    except RuntimeError as exc:
        said = " ".join(str(exc).split())
        raise ImportRefused(f"the weights in {weights.name} aren't this network's: {said:.300}") from exc


def _arguments(network: nn.Module, path: Path) -> Arrays:
    """The arrays of a file in the order of the network's arguments."""
    arrays = read_arrays(path)
    arrays.pop(TARGET, None)
    parameters = inspect.signature(network.forward).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty}
    taken = [name for name in names if name in arrays]
    if arrays.keys() - set(names) or needed - arrays.keys() or taken != names[: len(taken)]:
        raise ImportRefused(f"{path}: expected the arrays {names}, the network's arguments, got {sorted(arrays)}")
    sizes = {array.shape[:1] for array in arrays.values()}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ImportRefused(f"{path}: expected arrays with one number of samples on their first axis, got {sizes}")
    return {name: arrays[name] for name in taken}


def _input_specs(groups: Sequence[Arrays], given: Mapping[str, AxisRange]) -> tuple[TensorSpec, ...]:
    specs, used = [], set()
    for name, array in groups[0].items():
        shape, ranges = [], []
        for i in range(1, array.ndim):
            lengths = sorted(group[name].shape[i] for group in groups)
            axis = given.get(f"{name}.{i}") or AxisRange(
                min=lengths[0], opt=lengths[len(lengths) // 2], max=lengths[-1]
            )
            used.add(f"{name}.{i}")
            shape.append(-1 if axis.min < axis.max else axis.min)
            ranges += [axis] if axis.min < axis.max else []
        datatype: Any = datatype_of(array)
        specs.append(TensorSpec(name=name, datatype=datatype, shape=tuple(shape), ranges=tuple(ranges)))
    if unknown := sorted(given.keys() - used):
        raise ImportRefused(f"expected ranges for the axes {sorted(used)}, got one for {unknown[0]!r:.80}")
    return tuple(specs)


def _output_specs(
    network: nn.Module, group: Arrays, inputs: Sequence[TensorSpec]
) -> tuple[nn.Module, tuple[TensorSpec, ...]]:
    """The network with its outputs in a fixed order, and what they are: run at the ends of all ranges."""
    with torch.inference_mode():
        answers = [network(*tensors_of(_at(group, inputs, end), inputs)) for end in ("min", "max")]
    keys = tuple(map(str, answers[0])) if isinstance(answers[0], Mapping) else ()
    named = _InOrder(network, keys) if keys else network
    shortest, longest = (as_tuple([a[key] for key in keys] if keys else a) for a in answers)
    names = keys or _numbered(len(shortest))
    specs = []
    for name, short, long in zip(names, shortest, longest, strict=True):
        if not isinstance(short, Tensor) or not short.dim():
            raise ImportRefused(f"expected output {name!r} to be a tensor [N, ...], got {type(short).__name__}")
        shape = tuple(a if a == b else -1 for a, b in zip(short.shape[1:], long.shape[1:], strict=True))
        datatype: Any = datatype_of(short.numpy())
        specs.append(TensorSpec(name=name, datatype=datatype, shape=shape))
    return named, tuple(specs)


class _InOrder(nn.Module):
    """A network that answers with a mapping, answering with a tuple."""

    def __init__(self, network: nn.Module, keys: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self._keys = tuple(keys)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        answer = self.network(*tensors)
        return tuple(answer[key] for key in self._keys)


def _numbered(num: int) -> tuple[str, ...]:
    return ("output",) if num == 1 else tuple(f"output_{i}" for i in range(num))


def _varying(spec: TensorSpec) -> list[tuple[int, AxisRange]]:
    """Positions, the batch axis counted, and ranges of a spec's dynamic axes."""
    positions = [i for i, axis in enumerate(spec.shape, start=1) if axis == -1]
    return list(zip(positions, spec.ranges, strict=True))


def _at(group: Arrays, inputs: Sequence[TensorSpec], end: str) -> Arrays:
    """Up to two of the samples, cut off or repeated to the shortest or the longest lengths."""
    rows = {}
    for spec in inputs:
        array = group[spec.name][:2]
        for i, axis in _varying(spec):
            array = array.take(np.arange(getattr(axis, end)) % array.shape[i], axis=i)
        rows[spec.name] = array
    return rows
