"""Faults under load: clients leave, versions and routes change, the process is told to stop. No other request fails."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from PIL import Image
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from contract import Repository
from gateway.process import bound_socket
from gateway.rpc import InferenceService
from tests.gateway.attack import (
    BRIGHT,
    INFER,
    PNG_TYPE,
    PREDICT,
    Serve,
    check_refused,
    document,
    file_of,
    head,
    message,
    unharmed,
)
from tests.gateway.listening import calling, listening, until


@pytest.mark.parametrize("framing", [f"Content-Length: {len(BRIGHT)}", "Transfer-Encoding: chunked"])
async def test_the_call_of_a_client_that_leaves_is_cancelled(serve: Serve, framing: str) -> None:
    body = BRIGHT if "Length" in framing else b"%x\r\n%b\r\n0\r\n\r\n" % (len(BRIGHT), BRIGHT)
    async with unharmed(serve) as gateway, listening(gateway) as port:
        gateway.upstream.gate.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(framing) + body)
        await until(lambda: gateway.upstream.calls)
        writer.close()
        await until(lambda: gateway.upstream.cancelled == 1 and not gateway.plane.inflight)
        gateway.upstream.gate.set()
        assert gateway.metric("gateway_requests_total", model="tiny", code="499") == 1


async def test_the_call_of_a_grpc_client_that_leaves_is_cancelled(serve: Serve) -> None:
    async with unharmed(serve) as gateway, calling(gateway) as stub:
        gateway.upstream.gate.clear()
        call = stub.ModelInfer(message())
        await until(lambda: gateway.upstream.calls)
        call.cancel()
        await until(lambda: gateway.upstream.cancelled == 1 and not gateway.plane.inflight)
        gateway.upstream.gate.set()


async def test_what_is_too_late_while_it_queues_is_never_sent(serve: Serve) -> None:
    async with unharmed(serve, upstream_calls=1) as gateway, calling(gateway) as stub:
        gateway.upstream.gate.clear()
        first = asyncio.ensure_future(gateway.client.post(INFER, content=document()))
        await until(lambda: gateway.upstream.calls)
        headers = {"x-request-timeout-ms": "30"}
        check_refused(await gateway.client.post(INFER, content=document(), headers=headers), 504, "time was up")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.ModelInfer(message(), timeout=0.05)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: gateway.plane.inflight == 1)
        gateway.upstream.gate.set()
        assert (await first).status_code == 200
        await until(lambda: not gateway.plane.inflight)
        assert len(gateway.upstream.calls) == 1
        assert (
            gateway.metric("gateway_shed_total", model="tiny", reason="deadline") == 1
        )  # gRPC gave its call up itself


async def more_calls(gateway: Any) -> None:
    calls = gateway.upstream.calls
    num_before = len(calls)
    await until(lambda: len(calls) > num_before + 10)


async def under_load(gateway: Any, happens: Callable[[], Awaitable[None]], num_clients: int = 6) -> set[str]:
    """Do it while clients ask without a pause; none of their requests may fail. Returns the versions that answered."""
    over, versions = asyncio.Event(), set()

    async def client(number: int) -> int:
        num_asked = 0
        while not over.is_set() or num_asked < 5:
            sent: dict[str, Any] = {"content": BRIGHT, "headers": PNG_TYPE} if number % 2 else {"content": document()}
            answer = await gateway.client.post(PREDICT if number % 2 else INFER, **sent)
            assert answer.status_code == 200, answer.text
            said = answer.json()
            versions.add(said.get("version") or said["model_version"])
            num_asked += 1
            await asyncio.sleep(0)
        return num_asked

    clients = [asyncio.create_task(client(number)) for number in range(num_clients)]
    try:
        await more_calls(gateway)
        await happens()
    finally:
        over.set()
    assert min(await asyncio.gather(*clients)) >= 5
    return versions


async def test_versions_come_and_go_under_load(serve: Serve, tiny_repository: Repository, make_version: Any) -> None:
    async with serve() as gateway:

        async def publish() -> None:
            for version in (2, 3):
                make_version(tiny_repository.root, version=version)
                await gateway.plane.catalog.refresh()
                await more_calls(gateway)
                folder = tiny_repository.version_dir("tiny", version - 1)
                folder.rename(tiny_repository.root.parent / f"gone-{version}")
                await gateway.plane.catalog.refresh()

        assert await under_load(gateway, publish) == {"1", "2", "3"}
        assert (await gateway.client.get("/health/live")).status_code == 200


async def test_a_version_goes_while_its_request_is_prepared(
    serve: Serve, tiny_repository: Repository, make_version: Any
) -> None:
    async with serve() as gateway:
        wide = file_of(Image.new("L", (6000, 6000), 250))
        make_version(tiny_repository.root, version=2)
        ask = asyncio.create_task(gateway.client.post(PREDICT, content=wide, headers=PNG_TYPE))
        await until(lambda: gateway.plane.inflight)
        tiny_repository.version_dir("tiny", 1).rename(tiny_repository.root.parent / "gone")
        await gateway.plane.catalog.refresh()
        assert gateway.upstream.calls == []
        answer = await ask
        assert answer.status_code == 200, answer.text
        assert answer.json()["version"] == "2"


async def test_routes_are_edited_under_load(
    serve: Serve, tiny_repository: Repository, make_version: Any, tmp_path: Path
) -> None:
    make_version(tiny_repository.root, version=2)
    path = tmp_path / "routes.yaml"
    path.write_text("routes: [{name: tiny, targets: [{model: tiny, version: 1}]}]")
    async with serve(routes=path) as gateway:

        async def edit() -> None:
            good = "routes: [{name: tiny, targets: [{model: tiny, version: 2}]}]"
            for text in (good, good[:30]):
                path.write_text(text)
                for _ in range(2):
                    await gateway.plane.routes.refresh()
                await more_calls(gateway)

        assert await under_load(gateway, edit) == {"1", "2"}
        assert gateway.metric("gateway_route_reloads_total", result="applied") == 1
        assert gateway.metric("gateway_route_reloads_total", result="refused") == 1
        assert gateway.metric("gateway_route_config_in_force") == 0
        (route,) = (await gateway.client.get("/v1/routes")).json()["routes"]
        assert route["targets"][0]["version"] == 2


class Triton(InferenceService):
    """The gateway's own gRPC side with the one call that it refuses: a Triton whose calls wait at a gate."""

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol names it
        """`tiny` version 1 is ready."""
        answer = pb.RepositoryIndexResponse()
        answer.models.add(name="tiny", version="1", state="READY")
        return answer


@asynccontextmanager
async def process_over(gateway: Any, tmp_path: Path, **settings: str) -> AsyncIterator[Any]:
    """`python -m gateway` before a Triton that is `gateway`; its ports by name, and the process."""
    triton = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Triton(gateway.plane), triton)
    triton_port = triton.add_insecure_port("127.0.0.1:0")
    await triton.start()
    ports = {}
    for name in ("HTTP", "GRPC", "METRICS"):
        with bound_socket("127.0.0.1", 0, share=False) as probe:
            ports[name] = probe.getsockname()[1]
    environment = os.environ | {f"TIDEGATE_{name}_PORT": str(port) for name, port in ports.items()} | settings
    environment |= {
        "TIDEGATE_REPOSITORY": str(gateway.plane.settings.repository),
        "TIDEGATE_TRITON": f"127.0.0.1:{triton_port}",
    }
    with (tmp_path / "gateway.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", env=environment, stdout=log, stderr=log
        )
        try:
            yield ports, process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await triton.stop(None)


async def answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("num_clients", "patient"), [(24, True), (24, False), (0, False)])
async def test_sigterm_under_load(serve: Serve, tmp_path: Path, num_clients: int, patient: bool) -> None:
    """All that is in flight is answered, on many connections that are kept alive; told twice, it goes at once."""
    num_warm = 48
    async with (
        serve(request_timeout_s=60) as gateway,
        process_over(gateway, tmp_path, TIDEGATE_DRAIN_TIMEOUT_S="60", TIDEGATE_REQUEST_TIMEOUT_S="60") as run,
        httpx.AsyncClient(trust_env=False, timeout=30, limits=httpx.Limits(max_connections=None)) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{run[0]['GRPC']}") as channel,
    ):
        ports, process = run
        url = f"http://127.0.0.1:{ports['HTTP']}"

        async def ask() -> int:
            return (await client.post(url + PREDICT, content=BRIGHT, headers=PNG_TYPE)).status_code

        async def in_flight() -> float:
            scrape = (await client.get(f"http://127.0.0.1:{ports['METRICS']}/metrics")).text
            return sum(float(line.split()[-1]) for line in scrape.splitlines() if line.startswith("gateway_inflight_r"))

        async with asyncio.timeout(30):
            while not await answers(client, f"{url}/health/ready"):
                assert process.returncode is None, (tmp_path / "gateway.log").read_text()
            assert await asyncio.gather(*(ask() for _ in range(num_warm))) == [200] * num_warm
            gateway.upstream.gate.clear()
            asked = [asyncio.create_task(ask()) for _ in range(num_clients)]  # and other connections stay idle
            call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message())
            while await in_flight() < num_clients + 1:
                await asyncio.sleep(0)
            process.send_signal(signal.SIGTERM)
            while await answers(client, f"{url}/health/live"):
                await asyncio.sleep(0)
            if not num_clients:  # then gRPC's calls are all that it waits for
                await until(lambda: "Finished server process" in (tmp_path / "gateway.log").read_text())
            assert process.returncode is None
            if patient:
                gateway.upstream.gate.set()
                assert await asyncio.gather(*asked) == [200] * num_clients
                assert (await call).model_name == "tiny"
            else:
                process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0, (tmp_path / "gateway.log").read_text()
            gateway.upstream.gate.set()
            await asyncio.gather(*asked, return_exceptions=True)
            call.cancel()
