"""The JSON form of the Open Inference Protocol V2: documents to tensors, and back.

Source: https://github.com/kserve/open-inference-protocol, "Inference Request" and "Inference Response".
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.schema import TensorSpec
from contract.tensor import Tensors, datatype_of, from_values
from gateway.error import InvalidRequest

SERVER_NAME = "tidegate"
_INPUT_FIELDS = {"name", "shape", "datatype", "data", "parameters"}


def server_version() -> str:
    """The version of the installed distribution."""
    return version(SERVER_NAME)


def read_inputs(document: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Read the input tensors of an inference request; raises InvalidRequest or TensorError."""
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidRequest("expected a list of tensors in 'inputs'")
    tensors: dict[str, NDArray[Any]] = {}
    for entry in inputs:
        if not isinstance(entry, dict):
            raise InvalidRequest(f"expected an object for each of 'inputs', got {type(entry).__name__}")
        name, shape, data = entry.get("name"), entry.get("shape"), entry.get("data")
        if not isinstance(name, str) or not isinstance(shape, list) or not isinstance(data, list):
            raise InvalidRequest(
                f"expected each input to have name, shape, datatype and data, got {sorted(entry)!r:.120}"
            )
        if unknown := sorted(set(entry) - _INPUT_FIELDS):
            raise InvalidRequest(f"input {name!r:.80} has unknown fields {unknown!r:.120}")
        if name in tensors:
            raise InvalidRequest(f"input {name!r:.80} is given twice")
        tensors[name] = from_values(name, str(entry.get("datatype")), shape, data)
    return tensors


def requested_outputs(document: Mapping[str, Any]) -> list[str]:
    """Names of the outputs a request asks for; none means all."""
    outputs = document.get("outputs") or []
    if not isinstance(outputs, list) or any(
        not isinstance(o, dict) or not isinstance(o.get("name"), str) for o in outputs
    ):
        raise InvalidRequest("expected a list of objects with a name in 'outputs'")
    return [output["name"] for output in outputs]


def select(outputs: Tensors, names: Iterable[str]) -> Tensors:
    """Keep the outputs that were asked for, in that order; all of them when none was named."""
    wanted = list(names)
    if not wanted:
        return outputs
    if len(set(wanted)) != len(wanted):
        raise InvalidRequest("an output is requested twice")
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        raise InvalidRequest(f"unknown outputs {unknown[:5]!r:.120}; outputs are {sorted(outputs)}")
    return {name: outputs[name] for name in wanted}


def write_outputs(outputs: Tensors) -> list[dict[str, Any]]:
    """Output tensors as the protocol's JSON objects; half precision is widened, since JSON has no form for it."""
    return [
        {"name": name, "datatype": datatype_of(array), "shape": list(array.shape), "data": _values(name, array)}
        for name, array in ((name, _widened(array)) for name, array in outputs.items())
    ]


def write_metadata(name: str, versions: Iterable[str], platform: str, inputs: Any, outputs: Any) -> dict[str, Any]:
    """Model metadata from the specs of a contract; the batch axis is shown as -1."""

    def describe(spec: TensorSpec) -> dict[str, Any]:
        return {"name": spec.name, "datatype": spec.datatype, "shape": [-1, *spec.shape]}

    return {
        "name": name,
        "versions": list(versions),
        "platform": platform,
        "inputs": [describe(spec) for spec in inputs],
        "outputs": [describe(spec) for spec in outputs],
    }


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _values(name: str, array: NDArray[Any]) -> Any:
    if array.dtype.kind == "V":
        raise InvalidRequest(f"output {name!r} is BF16, which has no JSON form; ask for it over gRPC")
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).reshape(-1)
    try:
        return [element.decode() for element in array.ravel()]
    except UnicodeDecodeError:
        raise InvalidRequest(f"output {name!r} holds bytes that are no text; ask for it over gRPC") from None
