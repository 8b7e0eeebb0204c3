"""The gRPC form of the Open Inference Protocol V2: protobuf messages to tensors, and back.

Source: https://github.com/kserve/open-inference-protocol, `specification/protocol/open_inference_grpc.proto`, with
Triton's `double_param` and `uint64_param`.
"""

from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb

from contract.tensor import Tensors, datatype_of, from_raw, from_values, to_raw
from gateway.error import InvalidRequest
from gateway.v2 import (
    NO_LABELS,
    NO_PARAMETERS,
    InferRequest,
    Labels,
    Parameters,
    check_count,
    refuse_shared_memory,
    requested_outputs,
    select,
)

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read_message(request: Any) -> InferRequest:
    """Read a `ModelInferRequest`, its tensors raw or typed; raises InvalidRequest or TensorError."""
    raws = request.raw_input_contents
    check_count("inputs", len(request.inputs))
    check_count("outputs", len(request.outputs))
    if raws and len(raws) != len(request.inputs):
        raise InvalidRequest(f"expected raw contents for each of {len(request.inputs)} inputs, got {len(raws)}")
    tensors: dict[str, NDArray[Any]] = {}
    input_parameters: dict[str, Parameters] = {}
    for i, tensor in enumerate(request.inputs):
        name, what = tensor.name, f"input {tensor.name!r:.80}"
        if name in tensors:
            raise InvalidRequest(f"{what} is given twice")
        if parameters := read_parameters(what, tensor.parameters):
            refuse_shared_memory(what, parameters)
            input_parameters[name] = parameters
        tensors[name] = _read_tensor(tensor, raws[i] if raws else None)
    return InferRequest(
        tensors=tensors,
        outputs=requested_outputs(
            (output.name, read_parameters(f"output {output.name!r:.80}", output.parameters))
            for output in request.outputs
        ),
        id=request.id,
        parameters=read_parameters("the request", request.parameters),
        input_parameters=input_parameters,
    )


def write_message(
    model: str, version: str, request: InferRequest, outputs: Tensors, labels: Labels = NO_LABELS
) -> pb.ModelInferResponse:
    """The `ModelInferResponse` to a request, its tensors raw; InvalidRequest as for `gateway.v2.write_response`."""
    response = pb.ModelInferResponse(model_name=model, model_version=version, id=request.id)
    for name, array, _ in select(request, outputs, labels):
        response.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        response.raw_output_contents.append(to_raw(array))
    return response


def read_parameters(what: str, parameters: Any) -> Parameters:
    """Read a map of `InferParameter`s; InvalidRequest for one without a value."""
    if not parameters:
        return NO_PARAMETERS
    values: dict[str, bool | int | float | str] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise InvalidRequest(f"{what}: expected booleans, numbers and strings by name in 'parameters'")
        values[name] = getattr(parameter, kind)
    return values


def _read_tensor(tensor: Any, raw: bytes | None) -> NDArray[Any]:
    name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
    if raw is None:
        values = list(getattr(tensor.contents, _CONTENTS.get(datatype, "bytes_contents")))
        return from_values(name, datatype, shape, values)  # which says why a datatype has no typed contents
    if tensor.HasField("contents"):
        raise InvalidRequest(f"input {name!r:.80}: expected typed or raw contents, got both")
    return from_raw(name, datatype, shape, raw)
