"""The HTTP form of the Open Inference Protocol V2: from bodies to tensors, and from tensors to bodies.

A request means the same over gRPC, so `gateway/message.py` shares `InferRequest` and what checks it.

Sources: https://github.com/kserve/open-inference-protocol, "Inference Request" and "Inference Response"; Triton's
extensions: `gateway/binary.py` and `gateway/classification.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from contract.schema import Contract, TensorSpec
from contract.tensor import Tensors, datatype_of, from_raw, from_values, to_raw
from gateway.binary import Tail, split
from gateway.body import read_json
from gateway.classification import classify
from gateway.error import InvalidRequest

SERVER_NAME = "tidegate"
MAX_TENSORS = 256  # in a request's inputs, and in its outputs

Parameters = Mapping[str, bool | int | float | str]
Labels = Mapping[str, Sequence[str]]

NO_PARAMETERS: Parameters = MappingProxyType({})
NO_LABELS: Labels = MappingProxyType({})

# KServe's client repeats the path's model in `model_name`; the path decides.
_REQUEST_FIELDS = frozenset({"id", "model_name", "parameters", "inputs", "outputs"})
_INPUT_FIELDS = frozenset({"name", "shape", "datatype", "data", "parameters"})
_OUTPUT_FIELDS = frozenset({"name", "parameters"})
_SCALARS = frozenset({bool, int, float, str})
_ALL_BUT_QUOTE_AND_COLON = bytes(sorted(set(range(256)) - set(b'":')))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """One output that a request asks for: as raw bytes or not (None: as the request says), or its best classes."""

    name: str
    binary: bool | None = None
    classification: int = 0
    parameters: Parameters = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)  # not frozen: that would make it three times as dear, and each request has one
class InferRequest:
    """An inference request, whatever it came by. No `outputs` are all of them."""

    tensors: dict[str, NDArray[Any]]
    outputs: tuple[RequestedOutput, ...] = ()
    id: str = ""
    parameters: Parameters = field(default_factory=dict)
    binary_default: bool = False
    input_parameters: Mapping[str, Parameters] = field(default_factory=dict)

    def with_tensors(self, tensors: dict[str, NDArray[Any]]) -> "InferRequest":
        """The same request with other data."""
        return InferRequest(
            tensors=tensors,
            outputs=self.outputs,
            id=self.id,
            parameters=self.parameters,
            binary_default=self.binary_default,
            input_parameters=self.input_parameters,
        )


def read_request(body: bytes | memoryview, header_length: str | bytes | None = None) -> InferRequest:
    """Read a request; with `Inference-Header-Content-Length`, raw tensors follow its JSON.

    Raises InvalidRequest or TensorError.
    """
    text, tail = split(body, header_length)
    document = read_json(text)
    _check_fields("the request", document, _REQUEST_FIELDS)
    tensors: dict[str, NDArray[Any]] = {}
    input_parameters: dict[str, Parameters] = {}
    for entry in _entries(document, "inputs"):
        name, tensor, parameters = _read_input(entry, tail)
        if name in tensors:
            raise InvalidRequest(f"input {name!r:.80} is given twice")
        tensors[name] = tensor
        if parameters:
            input_parameters[name] = parameters
    check_count("inputs", len(tensors))
    tail.finish()
    outputs = requested_outputs(map(_read_output, _entries(document, "outputs")))
    parameters = _parameters("the request", document)
    binary_default = parameters.get("binary_data_output", False)
    if type(binary_default) is not bool:
        raise InvalidRequest(f"expected true or false in binary_data_output, got {binary_default!r:.40}")
    request_id = document.get("id")
    if request_id is not None and type(request_id) is not str:
        raise InvalidRequest(f"expected a string in 'id', got {type(request_id).__name__}")
    _check_keys_differ(text, document)
    return InferRequest(
        tensors=tensors,
        outputs=outputs,
        id=request_id or "",
        parameters=parameters,
        binary_default=binary_default,
        input_parameters=input_parameters,
    )


def write_response(
    model: str,
    version: str,
    request: InferRequest,
    outputs: Tensors,
    *,
    labels: Labels = NO_LABELS,
    parameters: Parameters | None = None,
) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON when raw tensors follow that.

    In JSON half precision is widened, and NaN and infinity are null, since JSON has neither. Raises InvalidRequest for
    an output that isn't there or can't be given in the form asked for.
    """
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id:
        document["id"] = request.id
    if parameters:
        document["parameters"] = parameters
    raws: list[bytes] = []
    document["outputs"] = entries = []
    for name, array, binary in select(request, outputs, labels):
        if binary:
            raws.append(raw := to_raw(array))
            data = {"parameters": {"binary_data_size": len(raw)}}
        else:
            array = array.astype(np.float32) if array.dtype.kind == "f" and array.dtype.itemsize == 2 else array
            data = {"data": plain_values(name, array)}
        entries.append({"name": name, "datatype": datatype_of(array), "shape": array.shape, **data})
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *raws)), len(text)) if raws else (text, None)


def select(request: InferRequest, outputs: Tensors, labels: Labels) -> list[tuple[str, NDArray[Any], bool]]:
    """Name, tensor and whether as raw bytes, of each output that was asked for; classes where those were asked for."""
    if not request.outputs:
        return [(name, array, request.binary_default) for name, array in outputs.items()]
    if unknown := [wanted.name for wanted in request.outputs if wanted.name not in outputs]:
        raise InvalidRequest(f"unknown outputs {unknown[:5]!r:.120}; outputs are {sorted(outputs)}")
    selected = []
    for wanted in request.outputs:
        array = outputs[wanted.name]
        if wanted.classification:
            array = classify(array, wanted.classification, labels.get(wanted.name, ()))
        binary = request.binary_default if wanted.binary is None else wanted.binary
        selected.append((wanted.name, array, binary))
    return selected


def requested_outputs(named: Iterable[tuple[str, Parameters]]) -> tuple[RequestedOutput, ...]:
    """What names and parameters of outputs ask for; InvalidRequest when it can't be, or for a name that comes twice."""
    outputs: dict[str, RequestedOutput] = {}
    for name, parameters in named:
        if name in outputs:
            raise InvalidRequest(f"output {name!r:.80} is requested twice")
        what = f"output {name!r:.80}"
        refuse_shared_memory(what, parameters)
        binary, classification = parameters.get("binary_data"), parameters.get("classification", 0)
        if binary is not None and type(binary) is not bool:
            raise InvalidRequest(f"{what}: expected true or false in binary_data, got {binary!r:.40}")
        if type(classification) is not int or classification < 0:
            raise InvalidRequest(f"{what}: expected a number of classes in classification, got {classification!r:.40}")
        outputs[name] = RequestedOutput(name=name, binary=binary, classification=classification, parameters=parameters)
    return tuple(outputs.values())


def check_count(side: str, count: int) -> None:
    """Hold the number of inputs or outputs against the limit; InvalidRequest, also when there is no input."""
    if count == 0 and side == "inputs":
        raise InvalidRequest("expected a list of tensors in 'inputs', got none")
    if count > MAX_TENSORS:
        raise InvalidRequest(f"expected at most {MAX_TENSORS} tensors in {side!r}, got {count}")


def refuse_shared_memory(tensor: str, parameters: Parameters) -> None:
    """InvalidRequest when the tensor's data would lie in memory that the gateway doesn't share with its clients."""
    if "shared_memory_region" in parameters:
        raise InvalidRequest(f"{tensor}: the gateway has no shared memory; send the data in the request")


@cache
def server_version() -> str:
    """The version of the installed distribution."""
    return version(SERVER_NAME)


def write_metadata(contract: Contract, versions: Iterable[str]) -> dict[str, Any]:
    """Model metadata from a contract: shapes as they travel, the batch axis, where there is one, as -1."""
    batch = () if contract.batch_axis is None else (-1,)

    def describe(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "datatype": spec.datatype, "shape": [*batch, *spec.wire_shape]}

    return {
        "name": contract.name,
        "versions": list(versions),
        "platform": SERVER_NAME,
        "inputs": [describe(spec) for spec in contract.inputs],
        "outputs": [describe(spec) for spec in contract.outputs],
    }


def _entries(document: dict[str, Any], side: str) -> list[dict[str, Any]]:
    entries = document.get(side)
    if entries is None:
        return []
    if type(entries) is not list:
        raise InvalidRequest(f"expected a list of objects in {side!r}, got {type(entries).__name__}")
    check_count(side, len(entries))
    for entry in entries:
        if type(entry) is not dict:
            raise InvalidRequest(f"expected an object for each of {side!r}, got {type(entry).__name__}")
    return entries


def _read_input(entry: dict[str, Any], tail: Tail) -> tuple[str, NDArray[Any], Parameters]:
    """Name, tensor and parameters of one input, without the size that its raw bytes had."""
    name, datatype, shape, data = entry.get("name"), entry.get("datatype"), entry.get("shape"), entry.get("data")
    if type(name) is not str or type(datatype) not in _SCALARS or type(shape) is not list:
        raise _incomplete(entry)
    what = f"input {name!r:.80}"
    _check_fields(what, entry, _INPUT_FIELDS)
    parameters = _parameters(what, entry)
    refuse_shared_memory(what, parameters)
    if "binary_data_size" not in parameters:
        if type(data) is not list:
            raise _incomplete(entry)
        return name, from_values(name, str(datatype), shape, data), parameters
    if "data" in entry:
        raise InvalidRequest(f"{what}: expected data or binary_data_size, got both")
    raw = tail.take(what, parameters["binary_data_size"])
    others = {key: value for key, value in parameters.items() if key != "binary_data_size"}
    return name, from_raw(name, str(datatype), shape, raw), others


def _incomplete(entry: dict[str, Any]) -> InvalidRequest:
    return InvalidRequest(f"expected each input to have name, shape, datatype and data, got {sorted(entry)!r:.120}")


def _read_output(entry: dict[str, Any]) -> tuple[str, Parameters]:
    name = entry.get("name")
    if type(name) is not str:
        raise InvalidRequest("expected a list of objects with a name in 'outputs'")
    _check_fields(f"output {name!r:.80}", entry, _OUTPUT_FIELDS)
    return name, _parameters(f"output {name!r:.80}", entry)


def _parameters(what: str, entry: dict[str, Any]) -> Parameters:
    parameters = entry.get("parameters")
    if parameters is None:
        return NO_PARAMETERS
    if type(parameters) is not dict or not set(map(type, parameters.values())) <= _SCALARS:
        raise InvalidRequest(f"{what}: expected booleans, numbers and strings by name in 'parameters'")
    return parameters


def _check_fields(what: str, entry: dict[str, Any], fields: frozenset[str]) -> None:
    if not entry.keys() <= fields:
        raise InvalidRequest(f"{what} has unknown fields {sorted(entry.keys() - fields)!r:.120}")


def _check_keys_differ(text: bytes, document: dict[str, Any]) -> None:
    """InvalidRequest when an object of a checked document was written with one key twice: the parser kept the last.

    Every key is followed by a colon. As many colons as keys were read is the usual case; more are counted again
    without the strings, where colons mean nothing.
    """
    num_keys = len(document) + len(document.get("parameters") or ())
    for side in ("inputs", "outputs"):
        for entry in document.get(side) or ():
            num_keys += len(entry) + len(entry.get("parameters") or ())
    if text.count(b":") != num_keys and _num_colons_outside_strings(text) != num_keys:
        raise InvalidRequest("an object in the request has the same key twice")


def _num_colons_outside_strings(text: bytes) -> int:
    without_escapes = text.replace(rb"\\", b"").replace(rb"\"", b"")
    pieces = without_escapes.translate(None, _ALL_BUT_QUOTE_AND_COLON).split(b'"')
    return sum(map(len, pieces[::2]))


def plain_values(name: str, array: NDArray[Any]) -> Any:
    """Row-major elements of an output as JSON knows them; InvalidRequest for those that it doesn't."""
    kind = array.dtype.kind
    if kind == "V":
        raise InvalidRequest(f"output {name!r} is BF16, which has no JSON form; ask for it as binary data")
    if kind not in "OSU":
        return array.astype(array.dtype.newbyteorder("="), copy=False).ravel()
    try:
        return [element.decode() if isinstance(element, bytes) else element for element in array.ravel().tolist()]
    except UnicodeDecodeError:
        raise InvalidRequest(f"output {name!r} holds bytes that are no text; ask for it as binary data") from None
