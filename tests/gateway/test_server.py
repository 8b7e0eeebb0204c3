"""One gateway process, and its end: what is in flight is answered, over both protocols."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from contract import Repository
from tests.port import free_ports

IMAGE = np.zeros((1, 8, 8, 1), np.uint8)


class SlowTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Serves `tiny`; every inference waits at the gate. What no real Triton can be made to do at the right moment."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked = threading.Semaphore(0)

    def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=True)

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        answer = pb.RepositoryIndexResponse()
        answer.models.add(name="tiny", version="1", state="READY")
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.asked.release()
        self.gate.wait(20)
        num = request.inputs[0].shape[0]
        answer = pb.ModelInferResponse(model_name="tiny", model_version="1")
        answer.outputs.add(name="logits", datatype="FP32", shape=(num, 3))
        answer.raw_output_contents.append(np.zeros((num, 3), np.float32).tobytes())
        return answer


@pytest.fixture
def slow_triton() -> Iterator[tuple[SlowTriton, int]]:
    service = SlowTriton()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield service, port
    service.gate.set()
    server.stop(None).wait(10)


def test_sigterm_answers_what_is_in_flight_over_http_and_grpc(
    tiny_repository: Repository, slow_triton: tuple[SlowTriton, int], tmp_path: Path
) -> None:
    service, triton_port = slow_triton
    ports = dict(zip(("HTTP", "GRPC", "METRICS"), free_ports(3), strict=True))
    environment = os.environ | {f"TIDEGATE_{name}_PORT": str(port) for name, port in ports.items()}
    environment |= {"TIDEGATE_REPOSITORY": str(tiny_repository.root), "TIDEGATE_TRITON": f"127.0.0.1:{triton_port}"}
    environment |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # not for neighbours
    url = f"http://127.0.0.1:{ports['HTTP']}"
    answers: dict[str, Any] = {}

    def over_http() -> None:
        document = {"inputs": [{"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [0] * 64}]}
        answers["http"] = httpx.post(
            f"{url}/v2/models/tiny/infer", json=document, timeout=20, trust_env=False
        ).status_code

    def over_grpc() -> None:
        client = triton.InferenceServerClient(
            f"127.0.0.1:{ports['GRPC']}", channel_args=[("grpc.enable_http_proxy", 0)]
        )
        tensor = triton.InferInput("image", IMAGE.shape, "UINT8")
        tensor.set_data_from_numpy(IMAGE)
        answers["grpc"] = client.infer("tiny", [tensor]).as_numpy("logits").shape
        client.close()

    log = (tmp_path / "gateway.log").open("wb")
    with log, subprocess.Popen([sys.executable, "-m", "gateway"], env=environment, stderr=log) as process:
        try:
            deadline = time.monotonic() + 30
            while not _ready(url):
                assert process.poll() is None, (tmp_path / "gateway.log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "gateway.log").read_text()
                threading.Event().wait(0.05)
            for ask in (over_http, over_grpc):  # one after the other, so that each has a call of its own in flight
                threading.Thread(target=ask, daemon=True).start()
                assert service.asked.acquire(timeout=10)
            process.send_signal(signal.SIGTERM)
            while _ready(url):  # it takes nothing new
                assert time.monotonic() < deadline
            assert process.poll() is None
            service.gate.set()
            assert process.wait(20) == 0, (tmp_path / "gateway.log").read_text()
        finally:
            process.kill()
    assert answers == {"http": 200, "grpc": (1, 3)}


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
