"""Triton's generate extension: plain JSON fields in, plain JSON fields out, once or as server-sent events.

The fields are the model's inputs by name: a number, a text or a list of them; `parameters` go along with the request.
A decoupled model (one that answers a request as often as it likes) is asked by `generate_stream`.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from tritonclient.grpc import service_pb2 as pb

from contract.tensor import from_raw, from_values, to_raw
from gateway.call import Ask
from gateway.catalog import Served
from gateway.dataplane import DataPlane
from gateway.error import InvalidRequest, UpstreamFailed
from gateway.outcome import message_of
from gateway.payload import write_parameters
from gateway.stream import answers_of
from gateway.v2 import plain_values

_NO_INPUTS = {"id", "parameters"}


@dataclass(frozen=True, slots=True)
class Signature:
    """Datatype by input name, and whether samples come in batches."""

    datatypes: Mapping[str, str]
    batched: bool


async def generate(plane: DataPlane, ask: Ask, document: Mapping[str, Any]) -> dict[str, Any]:
    """The one answer to a request; UpstreamFailed when the model makes none or several."""
    answers = [answer async for answer in stream(plane, ask, document)]
    if len(answers) != 1:
        raise UpstreamFailed(f"the model gave {len(answers)} answers to one request; ask it by generate_stream")
    return answers[0]


async def stream(plane: DataPlane, ask: Ask, document: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Each answer to a request as the model makes it."""

    async def message(served: Served) -> Any:
        return _message(served, await _signature(plane, served), document)

    async with aclosing(answers_of(plane, ask, message)) as responses:
        async for response in responses:
            if response.outputs:
                yield _answer(response)


async def first_of(answers: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    """The first answer, None when there is none. What goes wrong before it still has a status of its own."""
    return await anext(answers, None)


async def events(answers: AsyncIterator[dict[str, Any]], first: dict[str, Any] | None) -> AsyncIterator[bytes]:
    """Answers as server-sent events. An error after the first one is an event too: the status is long sent."""
    if first is None:
        return
    yield _event(first)
    try:
        async for answer in answers:
            yield _event(answer)
    except Exception as exc:
        yield _event({"error": message_of(exc)})


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n\n"


async def _signature(plane: DataPlane, served: Served) -> Signature:
    if served.contract is not None:
        inputs = served.contract.inputs
        return Signature({spec.name: spec.datatype for spec in inputs}, batched=served.contract.batched)
    config = (await plane.config(served)).config
    datatypes = {tensor.name: _datatype(tensor.data_type) for tensor in config.input}
    return Signature(datatypes, batched=config.max_batch_size > 0)


def _datatype(number: int) -> str:
    name = str(_DATA_TYPE.values_by_number[number].name).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def _message(served: Served, signature: Signature, document: Mapping[str, Any]) -> Any:
    fields = {name: value for name, value in document.items() if name not in _NO_INPUTS}
    if unknown := sorted(fields.keys() - signature.datatypes.keys()):
        raise InvalidRequest(f"unknown fields {unknown!r:.120}; the model's inputs are {sorted(signature.datatypes)}")
    parameters, request_id = document.get("parameters", {}), document.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidRequest(f"expected a string in 'id', got {type(request_id).__name__}")
    if not isinstance(parameters, dict) or not all(
        isinstance(v, bool | int | float | str) for v in parameters.values()
    ):
        raise InvalidRequest("expected an object of booleans, numbers and strings in 'parameters'")
    request = pb.ModelInferRequest(model_name=served.name, model_version=served.version, id=request_id)
    write_parameters(request.parameters, parameters)
    for name, value in fields.items():
        values = value if isinstance(value, list) else [value]
        shape = [1, len(values)] if signature.batched else [len(values)]
        datatype = signature.datatypes[name]
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(to_raw(from_values(name, datatype, shape, values)))
    return request


def _answer(response: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        answer["id"] = response.id
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        array = from_raw(output.name, output.datatype, tuple(output.shape), raw)
        values = plain_values(output.name, array)
        values = values if isinstance(values, list) else values.tolist()
        answer[output.name] = values[0] if len(values) == 1 else values
    return answer


_DATA_TYPE = pb.DESCRIPTOR.pool.FindEnumTypeByName("inference.DataType")
