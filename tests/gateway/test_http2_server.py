"""The server against the clients that people use: grpc, grpc.aio, and everything that those do to a connection."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway.http2.server import GrpcServer

MAX_MESSAGE_BYTES = 24 * 1024 * 1024
LARGE = bytes(range(256)) * (20 * 1024 * 4)
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Echoes, or does what the model's name says. `gate` holds calls back; `cancelled` counts those that were."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)
        self.num_entered = 0

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.num_entered += 1
        self.entered.release()
        match request.model_name:
            case "wait":
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    assert context.cancelled()
                    self.cancelled.release()
                    raise
            case "abort":
                await context.abort(grpc.StatusCode.NOT_FOUND, "größer als 100 %\n", (("why", "none"),))
            case "fail":
                raise ZeroDivisionError("a secret")
            case "code":
                context.set_code(grpc.StatusCode.DATA_LOSS)
                context.set_details("gone")
            case "metadata":
                await context.send_initial_metadata((("first", "1"),))
                context.set_trailing_metadata((("last-bin", b"\x00\xff"),))
                text = repr(sorted(item for item in context.invocation_metadata() if item[0].startswith("x-")))
                return pb.ModelInferResponse(id=text, model_name=context.peer())
            case "time":
                return pb.ModelInferResponse(id=str(context.time_remaining()))
        return pb.ModelInferResponse(id=request.id, raw_output_contents=request.raw_input_contents)

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            async for request in requests:
                if request.model_name == "stop":
                    return
                for _ in range(int(request.model_version or 1)):
                    answer = pb.ModelInferResponse(id=request.id, raw_output_contents=request.raw_input_contents)
                    yield pb.ModelStreamInferResponse(infer_response=answer)
        except asyncio.CancelledError:
            self.cancelled.release()
            raise


@asynccontextmanager
async def serving(service: Any, **settings: Any) -> AsyncIterator[tuple[GrpcServer, str]]:
    sock = socket.create_server(("127.0.0.1", 0))
    server = GrpcServer(**({"max_message_bytes": MAX_MESSAGE_BYTES} | settings))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    await server.start(sock)
    try:
        yield server, f"127.0.0.1:{sock.getsockname()[1]}"
    finally:
        await server.stop(0)
        assert not server.tasks
        assert not server.connections


@asynccontextmanager
async def client_of(address: str, *options: tuple[str, Any]) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(address, options=(*OPTIONS, *options)) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def infer(name: str = "echo", *raw: bytes, **fields: Any) -> Any:
    return pb.ModelInferRequest(model_name=name, raw_input_contents=raw, **fields)


async def refused(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code().name, error.value.details()


async def test_small_and_large_messages_come_back() -> None:
    async with serving(Service()) as (_, address), client_of(address) as client:
        for raw in (b"", b"a", b"b" * 16_000, b"c" * 16_384, b"d" * 300_000, LARGE):
            assert (await client.ModelInfer(infer("echo", raw))).raw_output_contents == [raw]


async def test_many_calls_at_once() -> None:
    service = Service()
    async with serving(service, max_streams=64) as (_, address), client_of(address) as client:
        answers = await asyncio.gather(*(client.ModelInfer(infer(id=str(i))) for i in range(500)))
        assert [answer.id for answer in answers] == [str(i) for i in range(500)]


async def test_large_messages_at_once_share_a_bounded_loan() -> None:
    async with serving(Service(), max_message_bytes=6_000_000) as (server, address), client_of(address) as client:
        raw = LARGE[:5_000_000]
        answers = await asyncio.gather(*(client.ModelInfer(infer("echo", raw)) for _ in range(12)))
        assert all(answer.raw_output_contents == [raw] for answer in answers)
        assert all(connection.credit._lent == 0 for connection in server.connections)


async def test_a_synchronous_client() -> None:
    def ask(address: str) -> str:
        with grpc.insecure_channel(address) as channel:
            answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(infer(id="7"), timeout=10)
            return str(answer.id)

    async with serving(Service()) as (_, address):
        assert await asyncio.to_thread(ask, address) == "7"


async def test_metadata_goes_both_ways() -> None:
    async with serving(Service()) as (_, address), client_of(address) as client:
        metadata = (("x-text", "a, b"), ("x-raw-bin", b"\x00\x01"), ("x-text", "c"))
        call = client.ModelInfer(infer("metadata"), metadata=metadata)
        answer = await call
        assert answer.id == "[('x-raw-bin', b'\\x00\\x01'), ('x-text', 'a, b'), ('x-text', 'c')]"
        assert answer.model_name.startswith("ipv4:127.0.0.1:")
        assert ("first", "1") in list(await call.initial_metadata())
        assert ("last-bin", b"\x00\xff") in list(await call.trailing_metadata())


async def test_errors_have_a_code_and_words(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Service()) as (_, address), client_of(address) as client:
        assert await refused(client.ModelInfer(infer("abort"))) == ("NOT_FOUND", "größer als 100 %\n")
        assert await refused(client.ModelInfer(infer("code"))) == ("DATA_LOSS", "gone")
        assert await refused(client.ModelConfig(pb.ModelConfigRequest())) == (
            "UNIMPLEMENTED",
            "Method not implemented!",
        )
        assert not caplog.records
        assert await refused(client.ModelInfer(infer("fail"))) == ("UNKNOWN", "the call failed unexpectedly")
        assert len(caplog.records) == 1
    async with serving(Service()) as (_, address), grpc.aio.insecure_channel(address) as channel:
        unknown = channel.unary_unary("/no.Service/Method")
        assert (await refused(unknown(b"")))[0] == "UNIMPLEMENTED"
        garbage = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert (await refused(garbage(b"\xff\xff")))[0] == "INTERNAL"


async def test_a_message_over_the_limit_is_refused_and_the_connection_lives() -> None:
    async with serving(Service(), max_message_bytes=1_000_000) as (server, address), client_of(address) as client:
        assert (await refused(client.ModelInfer(infer("echo", LARGE))))[0] == "RESOURCE_EXHAUSTED"
        assert (await client.ModelInfer(infer(id="on"))).id == "on"
        assert len(server.connections) == 1


@pytest.mark.parametrize("size", [9_000, 20_000, 60_000])
async def test_too_much_metadata_is_refused_and_the_connection_lives(size: int) -> None:
    async with serving(Service()) as (server, address), client_of(address) as client:
        assert (await client.ModelInfer(infer("metadata"), metadata=(("x-text", "a" * 7_000),))).id
        refusal = await refused(client.ModelInfer(infer(), metadata=(("x-text", "a" * size),)))
        assert refusal == ("RESOURCE_EXHAUSTED", "expected metadata of at most 8192 bytes, got more")
        assert (await client.ModelInfer(infer(id="on"))).id == "on"
        assert len(server.connections) == 1


async def test_gzip_is_read_and_bounded_and_deflate_refused() -> None:
    async with serving(Service(), max_message_bytes=1_000_000) as (_, address), client_of(address) as client:
        for size in (100, 900_000):
            answer = await client.ModelInfer(infer("echo", bytes(size)), compression=grpc.Compression.Gzip)
            assert answer.raw_output_contents == [bytes(size)]
        bomb = client.ModelInfer(infer("echo", bytes(20_000_000)), compression=grpc.Compression.Gzip)
        assert (await refused(bomb))[0] == "RESOURCE_EXHAUSTED"
        deflated = client.ModelInfer(infer("echo", bytes(5000)), compression=grpc.Compression.Deflate)
        assert (await refused(deflated))[0] == "UNIMPLEMENTED"


async def test_a_deadline_ends_the_call_at_both_ends() -> None:
    service = Service()
    async with serving(service) as (_, address), client_of(address) as client:
        while service.cancelled.locked():  # on a busy machine a call may end before its handler begins
            assert (await refused(client.ModelInfer(infer("wait"), timeout=0.05)))[0] == "DEADLINE_EXCEEDED"
            await asyncio.sleep(0)
        assert 20 < float((await client.ModelInfer(infer("time"), timeout=30)).id) <= 30.1
        assert (await client.ModelInfer(infer("time"))).id == "None"


async def test_a_cancelled_call_and_a_lost_connection_cancel_the_handler() -> None:
    service = Service()
    async with serving(service) as (_, address):
        async with client_of(address) as client:
            call = client.ModelInfer(infer("wait"))
            await service.entered.acquire()
            call.cancel()
            async with asyncio.timeout(5):
                await service.cancelled.acquire()
            asyncio.ensure_future(client.ModelInfer(infer("wait"))).add_done_callback(lambda task: task.exception())
            await service.entered.acquire()
        async with asyncio.timeout(5):
            await service.cancelled.acquire()


async def test_streams() -> None:
    service = Service()
    async with serving(service) as (_, address), client_of(address) as client:
        call = client.ModelStreamInfer()
        for i in range(20):
            await call.write(infer("echo", bytes(i * 10_000), id=str(i)))
            answer = await call.read()
            assert (answer.infer_response.id, len(answer.infer_response.raw_output_contents[0])) == (str(i), i * 10_000)
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        requests = (infer("echo", LARGE[:700_000], id=str(i)) for i in range(30))
        ids = [answer.infer_response.id async for answer in client.ModelStreamInfer(requests)]
        assert ids == [str(i) for i in range(30)]
        stopped = client.ModelStreamInfer()
        await stopped.write(infer("stop"))
        assert await stopped.read() is grpc.aio.EOF
        assert await stopped.code() is grpc.StatusCode.OK
        open_ended = client.ModelStreamInfer()
        await open_ended.write(infer())
        await open_ended.read()
        open_ended.cancel()
        async with asyncio.timeout(5):
            await service.cancelled.acquire()


async def test_health_and_reflection_of_the_library() -> None:
    async with serving(Service()) as (server, address), grpc.aio.insecure_channel(address) as channel:
        servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        names = ("inference.GRPCInferenceService",)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflection.aio.ReflectionServicer(names), server)
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == 1
        assert (await refused(stub.Check(health_pb2.HealthCheckRequest(service="no"))))[0] == "NOT_FOUND"
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == 1
        await servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert (await watch.read()).status == 2
        watch.cancel()
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([asked]))
        assert [s.name for s in (await call.read()).list_services_response.service] == list(names)


async def test_stopping_under_load_fails_no_call() -> None:
    service = Service()
    sock = socket.create_server(("127.0.0.1", 0), reuse_port=True)
    port = sock.getsockname()[1]
    service.gate.set()

    async def start(listener: socket.socket) -> GrpcServer:
        server = GrpcServer(max_message_bytes=1000)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
        await server.start(listener)
        return server

    first, ended = await start(sock), False

    async def ask(client: Any) -> int:
        count = 0
        while not ended:
            await client.ModelInfer(infer(), timeout=10)
            count += 1
        return count

    async with client_of(f"127.0.0.1:{port}") as client:
        asking = [asyncio.create_task(ask(client)) for _ in range(20)]
        for _ in range(200):
            await service.entered.acquire()
        second = await start(socket.create_server(("127.0.0.1", port), reuse_port=True))
        await first.stop(10)
        seen = service.num_entered
        while service.num_entered < seen + 100:
            await asyncio.sleep(0)
        ended = True
        assert min(await asyncio.gather(*asking)) > 0
    await second.stop(0)


async def test_what_does_not_end_within_the_grace_is_cancelled() -> None:
    service = Service()
    async with serving(service) as (server, address), client_of(address) as client:
        call = asyncio.ensure_future(client.ModelInfer(infer("wait")))
        await service.entered.acquire()
        await server.stop(0.01)
        assert await refused(call) == ("UNAVAILABLE", "the server is going away")
        assert service.cancelled._value == 1


async def test_more_connections_than_allowed_are_closed() -> None:
    async with serving(Service(), max_connections=1) as (_, address), client_of(address) as client:
        await client.ModelInfer(infer())
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.read() == b""
        writer.close()
        await client.ModelInfer(infer())


async def test_a_call_leaves_no_cycle_behind() -> None:
    async with serving(Service()) as (_, address), client_of(address) as client:
        await client.ModelInfer(infer())
        gc.collect()
        gc.disable()
        try:
            for _ in range(50):
                await client.ModelInfer(infer())
            kinds: Callable[[], list[str]] = lambda: [type(o).__name__ for o in gc.get_objects()]  # noqa: E731
            assert kinds().count("ServerCall") <= 1
        finally:
            gc.enable()
