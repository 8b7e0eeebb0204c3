"""What the tests of serving share: free ports, waiting with a deadline, scripts and a server in Triton's place."""

import json
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.control import Control
from serving.launcher import Ports

Until = Callable[..., None]
MakeProgram = Callable[[str], Path]


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers Triton's control calls over the wire, and fails as told: what a real Triton can't be made to do in time.

    `faults`: what loading a version answers instead of success. `delay_s`: how long loading takes.
    """

    def __init__(self) -> None:
        self.served: dict[str, set[int]] = {}
        self.calls: list[tuple[str, str, tuple[int, ...]]] = []
        self.faults: dict[tuple[str, int], str] = {}
        self.fault: tuple[grpc.StatusCode, str] | None = None
        self.delay_s = 0.0
        self.released = threading.Event()

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelStatistics(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = service_pb2.ModelStatisticsResponse()
        for name, versions in self.served.items():
            for version in versions:
                answer.model_stats.add(name=name, version=str(version))
        return answer

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # noqa: N802
        config = json.loads(request.parameters["config"].string_param)
        versions = tuple(int(version) for version in config["version_policy"]["specific"]["versions"])
        self.calls.append(("load", request.model_name, versions))
        self.released.wait(self.delay_s)
        if self.fault is not None:
            context.abort(*self.fault)
        bad = [version for version in versions if (request.model_name, version) in self.faults]
        if bad:
            parts = "".join(
                f"version {v} is at UNAVAILABLE state: Internal: {self.faults[request.model_name, v]};" for v in bad
            )
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"load failed for model '{request.model_name}': {parts}\n")
        self.served[request.model_name] = set(versions)
        return service_pb2.RepositoryModelLoadResponse()

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.calls.append(("unload", request.model_name, ()))
        self.served.pop(request.model_name, None)
        return service_pb2.RepositoryModelUnloadResponse()


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def address(stand_in: StandIn) -> Iterator[str]:
    """Where `stand_in` listens."""
    server = grpc.server(ThreadPoolExecutor(4))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(stand_in, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    stand_in.released.set()
    server.stop(grace=None).wait(10)


@pytest.fixture
def control(address: str) -> Iterator[Control]:
    with Control(address) as connected:
        yield connected


@pytest.fixture
def ports() -> Ports:
    """Three ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(3)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    http, grpc, metrics = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    return Ports(http=http, grpc=grpc, metrics=metrics)


@pytest.fixture
def until() -> Until:
    """`until(condition, timeout_s=10)`: come back as soon as it holds; fail when it never does."""

    def wait(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        pause = threading.Event()
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s"
            pause.wait(0.02)

    return wait


@pytest.fixture
def make_program(tmp_path: Path) -> MakeProgram:
    """`make_program(text)`: an executable shell script that takes Triton's place."""

    def make(text: str) -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make
