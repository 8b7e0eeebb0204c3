"""What an ONNX graph says of itself: its tensors, its labels, and which of its outputs are fed back into it."""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto

from contract.tensor import datatype_of
from training.importer.error import ImportRefused
from training.importer.file import parts

Axis = int | str  # a length, or the name of a length that varies

_MAX_METADATA_CHARACTERS = 1_000_000
_LABEL_KEYS = ("labels", "label", "classes", "class_names", "id2label", "names", "character")
# The data decides how long their outputs are.
_DATA_DEPENDENT = {"NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "If", "Range"}
# Without BFLOAT16: numpy has none, so ONNX Runtime neither takes nor gives it.
_NUMERIC = {
    TensorProto.BOOL, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip
_BUILT_IN = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Port:
    """An input or output. `axes` is None where the graph doesn't say how many there are."""

    name: str
    datatype: str
    axes: tuple[Axis, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Interface:
    """What goes into a graph, what comes out, and what it notes about itself."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    notes: dict[str, str]
    data_dependent: bool

    @property
    def state(self) -> dict[str, str]:
        """Output to the input that it is fed back into with the next request."""
        return state_pairs(self.inputs, self.outputs)


def interface(model: onnx.ModelProto) -> Interface:
    """Read a graph's interface; ImportRefused for what can't be served."""
    _check_operators(model)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_port("input", value) for value in graph.input if value.name not in constants)
    outputs = tuple(_port("output", value) for value in graph.output)
    if not inputs or not outputs:
        raise ImportRefused(f"expected inputs and outputs, the graph has {len(inputs)} and {len(outputs)} of them")
    return Interface(
        inputs=inputs,
        outputs=outputs,
        notes={entry.key: entry.value for entry in model.metadata_props},
        data_dependent=any(node.op_type in _DATA_DEPENDENT for node in parts(model, onnx.NodeProto)),
    )


def labels_in(notes: dict[str, str]) -> tuple[str, ...]:
    """Labels that a model's notes hold: a JSON list or object, a Python literal of one, or one a line; else none."""
    for key in _LABEL_KEYS:
        text = notes.get(key, "")
        if text and len(text) <= _MAX_METADATA_CHARACTERS:
            return _labels(text)
    return ()


def state_pairs(inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, str]:
    """Outputs that feed an input back, told by name (`past`/`present`, `h`/`hn`, `state`/`stateN`) and by shape."""
    pairs: dict[str, str] = {}
    for output in outputs:
        stems = set(_stems(output.name))
        for port in inputs:
            if port.name not in pairs.values() and _input_stem(port.name) in stems and _could_be(port, output):
                pairs[output.name] = port.name
                break
    return pairs


def foreign_operators(model: onnx.ModelProto) -> list[str]:
    """Operators of domains that are neither ONNX's nor ONNX Runtime's, nor the model's own, as `domain::Name`."""
    own = {(function.domain, function.name) for function in model.functions}
    used = {(node.domain, node.op_type) for node in parts(model, onnx.NodeProto) if node.domain not in _BUILT_IN}
    return sorted(f"{domain}::{name}" for domain, name in used - own)


def _check_operators(model: onnx.ModelProto) -> None:
    known = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and not 7 <= opset.version <= known:
            raise ImportRefused(
                f"the model is written in ONNX opset {opset.version}, expected 7 to {known}: "
                "export it with another opset, or convert it with onnx.version_converter"
            )


def _port(kind: str, value: ValueInfoProto) -> Port:
    if not value.type.HasField("tensor_type"):
        what = (value.type.WhichOneof("value") or "nothing").removesuffix("_type")
        raise ImportRefused(
            f"{kind} {value.name!r:.80} is a {what}, and only tensors can be served: export the model without it "
            "(skl2onnx: zipmap=False)"
        )
    tensor = value.type.tensor_type
    axes = None
    if tensor.HasField("shape"):
        axes = tuple(_axis(value.name, index, dim) for index, dim in enumerate(tensor.shape.dim))
    if kind == "input" and axes is None:
        raise ImportRefused(f"input {value.name!r:.80} doesn't say how many axes it has: export it with a shape")
    return Port(name=value.name, datatype=_datatype(kind, value.name, tensor.elem_type), axes=axes)


def _axis(name: str, index: int, dim: onnx.TensorShapeProto.Dimension) -> Axis:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    said = dim.dim_param if dim.HasField("dim_param") else ""
    return said if re.search(r"\w", said) else f"{name}.{index}"


def _datatype(kind: str, name: str, element: int) -> str:
    if element == TensorProto.STRING:
        return "BYTES"
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element) if element in _NUMERIC else None
    if dtype is not None:
        return datatype_of(np.empty(0, dtype))
    said = TensorProto.DataType.Name(element) if element in TensorProto.DataType.values() else str(element)
    raise ImportRefused(f"{kind} {name!r:.80} is {said}, which can't be served: cast it to FP32 or FP16 in the graph")


def _labels(text: str) -> tuple[str, ...]:
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, dict):
            return _in_order(found)
        if isinstance(found, list | tuple):
            return tuple(map(str, found))
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _in_order(found: dict[object, object]) -> tuple[str, ...]:
    """The labels of `{index: label}` or `{label: index}`, whichever it is; none when it is neither."""
    for pairs in (found.items(), [(value, key) for key, value in found.items()]):
        try:
            by_index = {int(index): str(label) for index, label in pairs}  # type: ignore[call-overload]
        except (TypeError, ValueError):
            continue
        if sorted(by_index) == list(range(len(found))):
            return tuple(by_index[index] for index in range(len(found)))
    return ()


def _could_be(port: Port, output: Port) -> bool:
    if port.datatype != output.datatype or port.axes is None or not port.axes:
        return False
    if output.axes is None:
        return True
    return len(port.axes) == len(output.axes) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(port.axes, output.axes, strict=True)
    )


_PAST = re.compile(r"^(past_key_values|past_kv|past|previous|prev|old|in)[._/]|[._/]?(_in|_prev|_past|_old)$", re.I)
_PRESENT = re.compile(r"^(present_key_values|present_kv|present|next|new|updated|out)[._/]", re.I)
_STATE = re.compile(r"state|hidden|cell|cache|memory|past|present|hx|cx|^h\d*$|^c\d*$", re.I)


def _input_stem(name: str) -> str:
    return _PAST.sub("", name)


def _stems(name: str) -> Iterator[str]:
    """What an input would be called that this output feeds."""
    if (present := _PRESENT.sub("", name)) != name:
        yield present
    for end in ("N", "n", "_n", "_out", "_next", "_new", "_present"):
        if name.endswith(end) and _STATE.search(stem := name.removesuffix(end)):
            yield stem
