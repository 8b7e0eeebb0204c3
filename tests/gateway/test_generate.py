"""Plain JSON in and out: whoever leaves, or doesn't read, is not worked for any longer."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tritonclient.grpc import service_pb2 as pb

from contract import Repository
from gateway import Settings, create_plane, protocol, running
from gateway.exposition import Registry
from gateway.upstream import IndexEntry
from tests.gateway.kind import write_people
from tests.gateway.listening import listening, until

Serve = Callable[..., Any]


def post(path: str, document: dict[str, Any]) -> bytes:
    body = json.dumps(document).encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


@pytest.fixture
def people(tmp_path: Path, make_version: Any) -> Repository:
    root = tmp_path / "people_repository"
    root.mkdir()
    write_people(root, make_version)
    return Repository(root)


@pytest.mark.parametrize("behind", [b"", b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
async def test_the_call_of_a_client_that_leaves_is_cancelled(
    serve: Serve, people: Repository, verb: str, behind: bytes
) -> None:
    path = f"/v2/models/people/{verb}"
    async with serve(people) as gateway, listening(gateway) as port:
        gateway.upstream.gate.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post(path, {"ids": [3, 4]}) + behind)
        await until(lambda: gateway.upstream.calls)
        writer.close()
        await until(lambda: gateway.upstream.cancelled == 1 and not gateway.plane.inflight)
        gateway.upstream.gate.set()
        assert gateway.metric("gateway_requests_total", model="people", code="499") == 1
        answer = await gateway.client.post(path, json={"ids": [3, 4]})
        assert answer.status_code == 200, answer.text
        assert b"people" in answer.content


class Talker:
    """A Triton with one decoupled model that doesn't stop to answer, once the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.num_asked = self.num_ended = 0

    async def index(self, timeout_s: float) -> list[IndexEntry]:
        return [IndexEntry("talker", "1", True, "")]

    async def model_config(self, name: str, version: str, timeout_s: float) -> Any:
        answer = pb.ModelConfigResponse()
        answer.config.input.add(name="start", data_type="TYPE_INT32")
        answer.config.model_transaction_policy.decoupled = True
        return answer

    async def stream(self, requests: AsyncIterator[Any], timeout_s: float) -> AsyncIterator[Any]:
        self.num_asked += 1
        try:
            while True:
                await self.gate.wait()
                await asyncio.sleep(0)
                response = pb.ModelInferResponse(model_name="talker", raw_output_contents=[bytes(4000)])
                response.outputs.add(name="numbers", datatype="INT32", shape=[1000])
                yield pb.ModelStreamInferResponse(infer_response=response)
        finally:
            self.num_ended += 1

    async def infer(self, batch: Any, timeout_s: float) -> Any:
        raise NotImplementedError

    model_metadata = model_statistics = model_config

    async def close(self) -> None:
        pass


@asynccontextmanager
async def talking(talker: Talker, folder: Path) -> AsyncIterator[Any]:
    """A gateway over the talker, its port, and a connection whose buffer is soon full."""
    settings = Settings(repository=folder, poll_interval_s=3600, request_timeout_s=60)
    plane = create_plane(settings, upstream=talker, registry=Registry())
    async with running(plane), listening(SimpleNamespace(plane=plane)) as port:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(post("/v2/models/talker/generate_stream", {"start": 1}))
        await until(lambda: talker.num_asked)
        yield plane, reader, writer
        writer.close()


async def test_a_client_that_leaves_a_stream_before_its_first_answer(tmp_path: Path) -> None:
    async with talking(talker := Talker(), tmp_path) as (plane, _, writer):
        writer.close()
        await until(lambda: talker.num_ended == 1 and not plane.inflight)


async def test_a_client_that_leaves_a_stream_after_its_first_answer(tmp_path: Path) -> None:
    async with talking(talker := Talker(), tmp_path) as (plane, reader, writer):
        talker.gate.set()
        await reader.readuntil(b"data: {")
        writer.close()
        await until(lambda: talker.num_ended == 1 and not plane.inflight)


async def test_a_client_that_does_not_read_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "WRITE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(protocol, "_WATCH_S", 0.05)
    async with talking(talker := Talker(), tmp_path) as (plane, *_):
        talker.gate.set()
        await until(lambda: talker.num_ended == 1 and not plane.inflight)
