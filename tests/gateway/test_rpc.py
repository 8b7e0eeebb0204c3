"""The unmodified clients of Triton against the gateway's gRPC side."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from contract import Repository
from contract.schema import AxisRange, TensorSpec
from gateway.process import bound_socket

Serve = Callable[..., Any]
IMAGES = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (0, 250)])


def image(array: np.ndarray[Any, Any] = IMAGES, name: str = "image", datatype: str = "UINT8") -> Any:
    tensor = triton.InferInput(name, array.shape, datatype)
    tensor.set_data_from_numpy(array)
    return tensor


async def test_infer_over_grpc(serve: Serve, grpc_client: Any) -> None:
    async with serve() as gateway, grpc_client(gateway) as client:
        answer = await client.infer("tiny", [image()], request_id="a7", outputs=[triton.InferRequestedOutput("logits")])
        response = answer.get_response()
        assert (response.id, response.model_name, response.model_version) == ("a7", "tiny", "1")
        assert answer.as_numpy("logits").argmax(axis=1).tolist() == [0, 2]
        await gateway.settle()
        assert gateway.metric("gateway_requests_total", protocol="v2_grpc", code="200") == 1
        assert gateway.metric("inference_prediction_total", label="dark") == 1


async def test_typed_contents_are_read_too(serve: Serve, grpc_client: Any) -> None:
    async with serve() as gateway, grpc_client(gateway) as client:
        request = pb.ModelInferRequest(model_name="tiny")
        tensor = request.inputs.add(name="image", datatype="UINT8", shape=(1, 8, 8, 1))
        tensor.contents.uint_contents.extend([250] * 64)
        response = await client._client_stub.ModelInfer(request)
        assert np.frombuffer(response.raw_output_contents[0], np.float32).argmax() == 2
        tensor.contents.uint_contents.append(300)
        with pytest.raises(grpc.aio.AioRpcError, match="expected 64 values"):
            await client._client_stub.ModelInfer(request)


async def test_health_and_metadata(serve: Serve, grpc_client: Any) -> None:
    async with serve() as gateway, grpc_client(gateway) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("tiny")
        assert (await client.get_server_metadata()).name == "tidegate"
        metadata = await client.get_model_metadata("tiny")
        assert (metadata.inputs[0].name, list(metadata.inputs[0].shape)) == ("image", [-1, 8, 8, 1])
        gateway.upstream.down = True
        await gateway.plane.catalog.refresh()
        assert not await client.is_server_ready()
        assert not await client.is_model_ready("tiny")


async def test_metadata_shows_shapes_as_they_travel_as_http_does(
    serve: Serve, tiny_repository: Repository, make_version: Any, grpc_client: Any
) -> None:
    shapes_of_samples = {"logits": (3,), "sequence": (-1, 2), "score": ()}
    outputs = [TensorSpec(name=name, datatype="FP32", shape=shape) for name, shape in shapes_of_samples.items()]
    make_version(tiny_repository.root, "batched", outputs=outputs)
    make_version(tiny_repository.root, "alone", outputs=outputs, batched=False, batch=AxisRange(min=1, opt=1, max=1))
    expected = {
        "batched": {"image": [-1, 8, 8, 1], "logits": [-1, 3], "sequence": [-1, -1, 2], "score": [-1, 1]},
        "alone": {"image": [8, 8, 1], "logits": [3], "sequence": [-1, 2], "score": [1]},
    }
    async with serve() as gateway, grpc_client(gateway) as client:
        for name, shapes in expected.items():
            over_http = (await gateway.client.get(f"/v2/models/{name}")).json()
            assert {tensor["name"]: tensor["shape"] for tensor in over_http["inputs"] + over_http["outputs"]} == shapes
            over_grpc = await client.get_model_metadata(name)
            assert {tensor.name: list(tensor.shape) for tensor in (*over_grpc.inputs, *over_grpc.outputs)} == shapes
            assert (over_grpc.name, over_grpc.platform, list(over_grpc.versions)) == (name, "tidegate", ["1"])


@pytest.mark.parametrize(
    ("model", "tensor", "code", "said"),
    [
        ("nothing", image(), "NOT_FOUND", "unknown model 'nothing'"),
        ("tiny", image(name="picture"), "INVALID_ARGUMENT", "expected the inputs"),
        ("tiny", image(IMAGES.astype(np.int8), datatype="INT8"), "INVALID_ARGUMENT", "expected datatype UINT8"),
        ("tiny", image(IMAGES[:, :4]), "INVALID_ARGUMENT", "expected shape"),
    ],
)
async def test_bad_requests_get_a_code_and_a_sentence(
    serve: Serve, model: str, tensor: Any, code: str, said: str, grpc_client: Any
) -> None:
    async with serve() as gateway, grpc_client(gateway) as client:
        with pytest.raises(InferenceServerException, match=said) as error:
            await client.infer(model, [tensor])
        assert error.value.status() == f"StatusCode.{code}"
        assert (await client.infer("tiny", [image()])).as_numpy("logits").shape == (2, 3)


async def test_a_dead_triton_is_unavailable_and_a_passed_deadline_said(serve: Serve, grpc_client: Any) -> None:
    async with serve() as gateway, grpc_client(gateway) as client:
        gateway.upstream.gate.clear()
        with pytest.raises(InferenceServerException, match=r"(?i)deadline|time was up"):
            await client.infer("tiny", [image()], client_timeout=0.05)
        while gateway.metric("gateway_inflight_requests"):
            await asyncio.sleep(0.001)
        assert gateway.metric("gateway_requests_total", model="tiny", protocol="v2_grpc", code="504") == 1
        gateway.upstream.gate.set()
        gateway.upstream.down = True
        with pytest.raises(InferenceServerException) as error:
            await client.infer("tiny", [image()])
        assert error.value.status() == "StatusCode.UNAVAILABLE"


async def test_calls_that_change_the_server_are_refused(serve: Serve, grpc_client: Any) -> None:
    async with serve() as gateway, grpc_client(gateway) as client:
        for call in (
            client.unload_model("tiny"),
            client.load_model("tiny"),
            client.get_model_repository_index(),
            client.get_system_shared_memory_status(),
            client.get_log_settings(),
            client.get_trace_settings(),
        ):
            with pytest.raises(InferenceServerException) as error:
                await call
            assert error.value.status() == "StatusCode.PERMISSION_DENIED"


async def test_a_message_over_the_limit_is_refused(serve: Serve, grpc_client: Any) -> None:
    async with serve(max_body_bytes=2048) as gateway, grpc_client(gateway) as client:
        with pytest.raises(InferenceServerException) as error:
            await client.infer("tiny", [image(np.zeros((40, 8, 8, 1), np.uint8))])
        assert error.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert "at most 2048 bytes" in str(error.value)
        assert gateway.metric("gateway_requests_total", model="tiny", protocol="v2_grpc", code="413") == 1
        with pytest.raises(InferenceServerException) as error:
            await client.infer("tiny", [image(np.zeros((200, 8, 8, 1), np.uint8))])
        assert error.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_a_taken_port_is_said_in_one_sentence() -> None:
    with bound_socket("127.0.0.1", 0, share=False) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{port}"):
            bound_socket("127.0.0.1", port, share=False)
