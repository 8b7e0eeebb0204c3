"""KServe's own clients, unchanged, asking the gateway: run by `.venv-kserve`, whose packages the project doesn't have.

Arguments: the HTTP URL, the gRPC address, the model, and its input as JSON with name, datatype and data.
Prints one JSON document: what each client said.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from kserve import (  # type: ignore[import-not-found]
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferRequest,
    RESTConfig,
)
from kserve.protocol.infer_type import RequestedOutput  # type: ignore[import-not-found]

TIMEOUT_S = 20.0


def request(model: str, tensor: dict[str, Any], binary: bool) -> InferRequest:
    array = np.array(tensor["data"], dtype=tensor["datatype"].lower())
    given = InferInput(tensor["name"], list(array.shape), tensor["datatype"])
    given.set_data_from_numpy(array, binary_data=binary)
    outputs = [RequestedOutput("logits", parameters={"binary_data": binary})]
    return InferRequest(model, [given], request_id="kserve-1", request_outputs=outputs)


async def infer(ask: Callable[[InferRequest], Awaitable[Any]], wanted: InferRequest) -> dict[str, Any]:
    said = await ask(wanted)
    (output,) = said.outputs
    return {"id": said.id, "model": said.model_name, "logits": output.as_numpy().tolist()}


async def rest(url: str, model: str, tensor: dict[str, Any]) -> dict[str, Any]:
    config = RESTConfig(protocol="v2", retries=0, timeout=TIMEOUT_S)
    async with InferenceRESTClient(config) as client:

        async def ask(wanted: InferRequest) -> Any:
            return await client.infer(url, wanted, model_name=model)

        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model_ready": await client.is_model_ready(url, model),
            "unknown_ready": await client.is_model_ready(url, "nothing"),
            "json": await infer(ask, request(model, tensor, binary=False)),
            "binary": await infer(ask, request(model, tensor, binary=True)),
        }


async def grpc(address: str, model: str, tensor: dict[str, Any]) -> dict[str, Any]:
    async with InferenceGRPCClient(address, timeout=TIMEOUT_S, retries=0) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(model),
            "typed": await infer(client.infer, request(model, tensor, binary=False)),
            "raw": await infer(client.infer, request(model, tensor, binary=True)),
        }


async def main(url: str, address: str, model: str, text: str) -> None:
    tensor = json.loads(text)
    said = {"rest": await rest(url, model, tensor), "grpc": await grpc(address, model, tensor)}
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
