"""Triton's own clients, unchanged, against the gateway: models with a contract, without one, and decoupled ones."""

import asyncio
import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio_client
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio_client
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import np_to_triton_dtype

from tidegate.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

IMAGES = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (0, 120, 250)])
DTYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip

ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("out_" + t.name()[3:], t.as_numpy()) for t in request.inputs()]
            )
            for request in requests
        ]
"""
COUNTDOWN = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            start = int(pb_utils.get_input_tensor_by_name(request, "start").as_numpy().ravel()[0])
            if start > 100:
                error = pb_utils.TritonError("too far to count")
                last = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
                sender.send(pb_utils.InferenceResponse(error=error), flags=last)
                continue
            for number in range(start, 0, -1):
                tensor = pb_utils.Tensor("number", np.array([number], np.int32))
                sender.send(pb_utils.InferenceResponse([tensor]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None
"""


def write_python_model(root: Path, name: str, code: str, config: str) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(code)
    (root / name / "config.pbtxt").write_text(f'name: "{name}" backend: "python" max_batch_size: 0\n{config}')


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, stack_over: Any, make_version: Any) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("client")
    root = folder / "model_repository"
    make_version(root)
    types = {name: "STRING" if name == "BYTES" else name for name in DTYPES}
    tensors = "".join(
        f'input [ {{ name: "in_{name}" data_type: TYPE_{kind} dims: [-1] optional: true }} ]\n'
        f'output [ {{ name: "out_{name}" data_type: TYPE_{kind} dims: [-1] }} ]\n'
        for name, kind in types.items()
    )
    write_python_model(root, "echo", ECHO, tensors)
    write_python_model(
        root,
        "countdown",
        COUNTDOWN,
        'input [ { name: "start" data_type: TYPE_INT32 dims: [1] } ]\n'
        'output [ { name: "number" data_type: TYPE_INT32 dims: [1] } ]\n'
        "model_transaction_policy { decoupled: true }\n",
    )
    with stack_over(root, folder / "run") as running:
        for model in ("tiny", "echo", "countdown"):
            running.wait_for(model)
        yield running


def values(name: str) -> np.ndarray[Any, Any]:
    if name == "BYTES":
        return np.array([b"", "grüße".encode(), b"\x00x"], dtype=np.object_)
    return np.array([0, 1, 1], dtype=DTYPES[name])


def inputs_of(module: Any, name: str, array: np.ndarray[Any, Any], **options: Any) -> list[Any]:
    tensor = module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(array, **options)
    return [tensor]


@pytest.mark.parametrize("binary", [True, False])
def test_the_http_client(stack: Stack, binary: bool) -> None:
    with http_client.InferenceServerClient(f"127.0.0.1:{stack.ports.http}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.get_server_metadata()["name"] == "tidegate"
        assert client.get_model_metadata("tiny")["inputs"][0]["shape"] == [-1, 8, 8, 1]
        assert client.get_model_config("tiny")["max_batch_size"] == 8
        outputs = [http_client.InferRequestedOutput("logits", binary_data=binary)]
        inputs = inputs_of(http_client, "image", IMAGES, binary_data=binary)
        for compression in (None, "gzip", "deflate"):
            answer = client.infer(
                "tiny",
                inputs,
                outputs=outputs,
                request_id="r1",
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            )
            assert answer.as_numpy("logits").argmax(axis=1).tolist() == [0, 1, 2]
            assert answer.get_response()["id"] == "r1"
        classes = [http_client.InferRequestedOutput("logits", binary_data=binary, class_count=2)]
        answer = client.infer("tiny", inputs, outputs=classes).as_numpy("logits")
        texts = [text.decode() if isinstance(text, bytes) else text for text in answer[:, 0]]
        assert [text.rsplit(":", 2)[1:] for text in texts] == [["0", "dark"], ["1", "even"], ["2", "bright"]]
        statistics = client.get_inference_statistics("tiny")["model_stats"][0]
        assert statistics["inference_count"] > 0


async def test_the_asyncio_http_client(stack: Stack) -> None:
    async with http_aio_client.InferenceServerClient(f"127.0.0.1:{stack.ports.http}") as client:
        assert await client.is_model_ready("tiny")
        answers = await asyncio.gather(
            *(client.infer("tiny", inputs_of(http_aio_client, "image", IMAGES)) for _ in range(20))
        )
        assert all(answer.as_numpy("logits").argmax(axis=1).tolist() == [0, 1, 2] for answer in answers)


@pytest.mark.parametrize("name", DTYPES)
def test_every_datatype_passes_through_a_model_without_a_contract(stack: Stack, name: str) -> None:
    array = values(name)
    with http_client.InferenceServerClient(f"127.0.0.1:{stack.ports.http}") as client:
        answer = client.infer("echo", inputs_of(http_client, f"in_{name}", array)).as_numpy(f"out_{name}")
        np.testing.assert_array_equal(answer, array)
        if name not in ("FP16", "BYTES"):
            inputs = inputs_of(http_client, f"in_{name}", array, binary_data=False)
            outputs = [http_client.InferRequestedOutput(f"out_{name}", binary_data=False)]
            answer = client.infer("echo", inputs, outputs=outputs).as_numpy(f"out_{name}")
            np.testing.assert_array_equal(answer, array)
    with grpc_client.InferenceServerClient(f"127.0.0.1:{stack.ports.grpc}") as client:
        answer = client.infer("echo", inputs_of(grpc_client, f"in_{name}", array)).as_numpy(f"out_{name}")
        np.testing.assert_array_equal(answer, array)


def test_a_model_without_a_contract_is_measured(stack: Stack) -> None:
    with httpx.Client(trust_env=False) as client:
        text = client.get(f"http://127.0.0.1:{stack.ports.metrics}/metrics").text
    labels = {"model": "echo", "version": "1", "protocol": "v2_http", "code": "200"}
    families = {family.name: family for family in text_string_to_metric_families(text)}
    (count,) = [s.value for s in families["gateway_requests"].samples if s.labels == labels]
    assert count > 0


def test_the_grpc_client(stack: Stack) -> None:
    with grpc_client.InferenceServerClient(f"127.0.0.1:{stack.ports.grpc}") as client:
        assert client.is_server_ready()
        assert client.get_model_config("tiny").config.max_batch_size == 8
        assert client.get_inference_statistics("tiny").model_stats[0].name == "tiny"
        assert client.get_model_metadata("echo").inputs
        answer = client.infer("tiny", inputs_of(grpc_client, "image", IMAGES), request_id="r2")
        assert answer.as_numpy("logits").argmax(axis=1).tolist() == [0, 1, 2]
        classes = [grpc_client.InferRequestedOutput("logits", class_count=1)]
        answer = client.infer("tiny", inputs_of(grpc_client, "image", IMAGES), outputs=classes)
        assert answer.as_numpy("logits").ravel()[2].split(b":")[1:] == [b"2", b"bright"]


async def test_the_asyncio_grpc_client(stack: Stack) -> None:
    async with grpc_aio_client.InferenceServerClient(f"127.0.0.1:{stack.ports.grpc}") as client:
        asks = (client.infer("tiny", inputs_of(grpc_aio_client, "image", IMAGES)) for _ in range(50))
        answers = await asyncio.gather(*asks)
        assert all(answer.as_numpy("logits").argmax(axis=1).tolist() == [0, 1, 2] for answer in answers)


def test_a_decoupled_model_answers_as_often_as_it_likes(stack: Stack) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    with grpc_client.InferenceServerClient(f"127.0.0.1:{stack.ports.grpc}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("countdown", inputs_of(grpc_client, "start", np.array([3], np.int32)), request_id="c")
        got = [answers.get(timeout=20)[0] for _ in range(3)]
        assert [int(result.as_numpy("number")[0]) for result in got] == [3, 2, 1]
        assert {result.get_response().id for result in got} == {"c"}
        client.async_stream_infer("countdown", inputs_of(grpc_client, "start", np.array([101], np.int32)))
        assert "too far to count" in str(answers.get(timeout=20)[1])
        client.async_stream_infer("tiny", inputs_of(grpc_client, "image", IMAGES))  # the stream goes on
        assert answers.get(timeout=20)[0].as_numpy("logits").shape == (3, 3)
        client.stop_stream()


def test_server_sent_events(stack: Stack) -> None:
    with httpx.Client(base_url=stack.url, timeout=20, trust_env=False) as client:
        url = "/v2/models/countdown/generate_stream"
        with client.stream("POST", url, json={"start": 3}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]
        assert [event["number"] for event in events] == [3, 2, 1]
        assert client.post("/v2/models/countdown/generate", json={"start": 1}).json()["number"] == 1
        several = client.post("/v2/models/countdown/generate", json={"start": 2})
        assert several.status_code == 502
        assert "generate_stream" in several.json()["error"]
        wrong = client.post(url, json={"begin": 3})
        assert wrong.status_code == 400
        assert "unknown fields ['begin']" in wrong.json()["error"]


def test_health_and_reflection(stack: Stack) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{stack.ports.grpc}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "inference.GRPCInferenceService", "tiny"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as error:
            health.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=10)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=10)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
        names = {service.name for service in listed.list_services_response.service}
        assert names >= {"inference.GRPCInferenceService", "grpc.health.v1.Health"}
