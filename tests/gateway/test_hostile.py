"""Hostile requests and faults through a whole gateway: each is refused in one sentence, and nothing else suffers.

What isn't here is shown elsewhere: lies about datatypes, shapes, lengths and JSON, case by case, in test_codec*.py and
test_v2.py; the framing of HTTP in test_protocol.py; encodings, case by case, in test_encoding.py; Triton's control
calls in test_v2.py and test_rpc.py; gRPC messages over the limit in test_rpc.py; decoding of every kind of image in
tests/contract/test_image.py; the deadline in a batch's queue in test_coalesce.py; all Tritons down, and back up, in
test_predict.py; every kind of edit of the routes file in test_route_file.py.
"""

import asyncio
import base64
import gzip
import io
import json
import os
import random
import signal
import string
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import onnx
import pytest
import uvicorn
from PIL import Image
from prometheus_client import generate_latest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from contract import Repository
from gateway import create_app
from gateway.hot import HotEndpoints
from gateway.process import bound_socket
from gateway.protocol import protocol_of
from gateway.rpc import InferenceService, grpc_server

Serve = Callable[..., Any]

PREDICT, INFER = "/v1/models/tiny/predict", "/v2/models/tiny/infer"
LIMIT = 20_000
PNG_TYPE = {"content-type": "image/png"}


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


BRIGHT = file_of(Image.new("L", (8, 8), 250))


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "data": [250] * 64} | changes


def document(**changes: Any) -> bytes:
    return json.dumps({"inputs": [tensor(**changes)]}).encode()


@asynccontextmanager
async def unharmed(serve: Serve, *args: Any, **settings: Any) -> AsyncIterator[Any]:
    """A gateway that, after whatever the test did, is alive, idle, scraped, right, and has no new series."""
    async with serve(*args, **settings) as gateway:
        before = gateway.num_series()
        yield gateway
        async with asyncio.timeout(10):
            while gateway.plane.inflight:
                await asyncio.sleep(0.001)
        assert (await gateway.client.get("/health/live")).status_code == 200
        good = await gateway.client.post(PREDICT, content=BRIGHT, headers=PNG_TYPE)
        assert (good.status_code, good.json()["predictions"][0]["label"]) == (200, "bright")
        assert b"gateway_requests_total" in generate_latest(gateway.plane.metrics.registry)
        assert gateway.num_series() == before


def check_refused(answer: httpx.Response, status: int, said: str = "") -> None:
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), answer.text[:300]
    assert said in answer.json()["error"]
    assert len(answer.content) < 1000


@asynccontextmanager
async def listening(gateway: Any) -> AsyncIterator[int]:
    """The port of a real server over the gateway's plane."""
    listener = bound_socket("127.0.0.1", 0, share=False)
    config = uvicorn.Config(
        create_app(gateway.plane), loop="none", http=protocol_of(HotEndpoints(gateway.plane), 100),
        lifespan="off", log_config=None, access_log=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    task = asyncio.create_task(server._serve([listener]))
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.001)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def calling(gateway: Any) -> AsyncIterator[Any]:
    """A stub of the gateway's gRPC service."""
    listener = bound_socket("127.0.0.1", 0, share=False)
    listener.listen()
    server = grpc_server(gateway.plane)
    await server.start(listener)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}") as channel:
            yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
    finally:
        await server.stop(0)


def message(model: str = "tiny", raw: bytes = bytes(64), **fields: Any) -> Any:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[raw])
    request.inputs.add(**({"name": "image", "datatype": "UINT8", "shape": (1, 8, 8, 1)} | fields))
    return request


def head(*headers: str, path: str = PREDICT) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", "Content-Type: image/png", *headers, "", ""]).encode()


async def ask_raw(port: int, *parts: bytes) -> bytes:
    """What comes back, until the gateway closes, on a connection that sends this and nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(20):
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
        except ConnectionError:  # it is refused already
            pass
        try:
            return await reader.read(-1)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


MANY = [{"name": "logits"}] * 10_000
BAD_TENSORS: dict[str, tuple[bytes, str]] = {
    "a product beyond 2^64": (document(shape=[2**31 - 1] * 3, data=[1]), "expected"),
    "bytes beyond 2^64": (document(datatype="INT64", shape=[2**31 - 1, 2**31 - 1, 3], data=[1]), "expected"),
    "no samples": (document(shape=[0, 8, 8, 1], data=[]), "expected shape [1..8, 8, 8, 1], got [0, 8, 8, 1]"),
    "half precision": (document(datatype="FP16", data=[1.0] * 64), "FP16"),
    "brain floats": (document(datatype="BF16", data=[1.0] * 64), "BF16"),
    "infinity": (document(datatype="FP32").replace(b"250", b"Infinity", 1), "not JSON"),
    "101 deep": (document(data=json.loads("[" * 101 + "1" + "]" * 101)), "nested more than 32 deep"),
    "a key twice": (b'{"id": "a", "id": "b", ' + document()[1:], "the same key twice"),
    "10,000 inputs": (json.dumps({"inputs": [tensor(data=[])] * 10_000}).encode(), "at most 256"),
    "10,000 outputs": (json.dumps({"inputs": [tensor()], "outputs": MANY}).encode(), "at most 256"),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
async def test_bad_tensors(serve: Serve, case: str) -> None:
    body, said = BAD_TENSORS[case]
    async with unharmed(serve) as gateway:
        check_refused(await gateway.client.post(INFER, content=body), 400, said)
        assert gateway.upstream.calls == []


@pytest.mark.parametrize("length", ["-1", "10", "99999", "9" * 18, "9" * 5000, "x", "", "1e3", "0x10", "1,2"])
async def test_lying_header_lengths(serve: Serve, length: str) -> None:
    async with unharmed(serve) as gateway:
        headers = {"inference-header-content-length": length}
        check_refused(await gateway.client.post(INFER, content=document(), headers=headers), 400)
        assert gateway.upstream.calls == []


@pytest.mark.parametrize(
    "request_",
    [
        message(raw=bytes(63)),
        message(raw=bytes(10_000)),
        message(shape=(2**62, 2**62)),
        message(shape=(-1, 8, 8, 1)),
        message(shape=(0, 8, 8, 1), raw=b""),
        message(datatype="BYTES", shape=(1,), raw=b"\xff\xff\xff\xff0"),
        message(datatype="FLOAT"),
    ],
)
async def test_bad_messages(serve: Serve, request_: Any) -> None:
    async with unharmed(serve) as gateway, calling(gateway) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.ModelInfer(request_)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(error.value.details() or "") < 1000
        assert gateway.upstream.calls == []


async def test_a_model_that_answers_nan(serve: Serve, tiny_repository: Repository) -> None:
    async with serve() as gateway:
        path = tiny_repository.version_dir("tiny", 1) / "model.onnx"
        model = onnx.load(path)
        bias = next(value for value in model.graph.initializer if value.name == "bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), "bias"))
        onnx.save(model, path)
        predicted = await gateway.client.post(PREDICT, content=BRIGHT, headers=PNG_TYPE)
        inferred = await gateway.client.post(INFER, content=document())
        assert predicted.status_code == 200, predicted.text
        assert predicted.json()["predictions"] == [{"label": None, "confidence": None, "top": []}]
        assert inferred.json()["outputs"][0]["data"] == [None] * 3
        await gateway.settle()
        labels = [gateway.metric("inference_prediction_total", label=label) for label in ("dark", "even", "bright")]
        assert labels == [0, 0, 0]
        assert gateway.metric("inference_prediction_total", model="tiny") == 2
        assert (await gateway.client.get("/health/live")).status_code == 200


NOISE = random.Random(0).randbytes(2 * LIMIT)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(bytes(50_000_000)), 413),
        ("deflate", zlib.compress(bytes(18_000_000)), 413),
        ("gzip", gzip.compress(NOISE), 413),
        ("zstd", b"x", 415),
        ("gzip, gzip", b"x", 415),
        ("gzip", b"not gzip", 400),
    ],
)
async def test_bombs(serve: Serve, encoding: str, body: bytes, status: int) -> None:
    async with unharmed(serve, max_body_bytes=LIMIT) as gateway, listening(gateway) as port:
        headers = PNG_TYPE | {"content-encoding": encoding}
        check_refused(await gateway.client.post(PREDICT, content=body, headers=headers), status, "expected")
        answer = await ask_raw(
            port, head(f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}", "Connection: close"), body
        )
        assert not answer or answer.startswith(b"HTTP/1.1 %d" % status)


@pytest.mark.parametrize("declared", ["99999999", "9" * 30, "00000000000099999999", "0" * 25 + "9999999", "40000"])
async def test_a_declared_body_over_the_limit_is_not_read(serve: Serve, declared: str) -> None:
    async with unharmed(serve, max_body_bytes=LIMIT) as gateway, listening(gateway) as port:
        answer = await ask_raw(port, head(f"Content-Length: {declared}"), bytes(2 * LIMIT))
        assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))
        assert b'{"error":' in answer


async def test_reading_an_undeclared_body_stops_at_the_limit(serve: Serve) -> None:
    async with unharmed(serve, max_body_bytes=LIMIT) as gateway, listening(gateway) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head("Transfer-Encoding: chunked"))
        with pytest.raises(ConnectionError):
            await write_many(writer, b"10000\r\n%b\r\n" % bytes(65536))
        writer.close()
        check_refused(
            await gateway.client.post(PREDICT, content=pieces(bytes(2 * LIMIT), 1000), headers=PNG_TYPE), 413, "at most"
        )
        await until(lambda: gateway.metric("gateway_requests_total", model="tiny", code="413") == 2)


async def test_a_body_that_ends_before_its_length(serve: Serve) -> None:
    async with unharmed(serve) as gateway, listening(gateway) as port:
        for length in (1000, 1_000_000):  # whole small bodies are read in another place than large ones
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head(f"Content-Length: {length}") + b"short")
            await writer.drain()
            writer.close()
        answer = await ask_raw(port, head("Content-Length: 1"), BRIGHT)  # and one that goes on behind it
        assert answer.startswith(b"HTTP/1.1 400")


async def write_many(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    for _ in range(10_000):
        writer.write(chunk)
        await writer.drain()


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_one_byte_chunks_are_served(serve: Serve) -> None:
    body = document().ljust(20_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    async with unharmed(serve) as gateway, listening(gateway) as port:
        answer = await ask_raw(port, head("Transfer-Encoding: chunked", "Connection: close", path=INFER), chunks)
        assert answer.startswith(b"HTTP/1.1 200")


ODD_NAMES = ["..", "%2e%2e%2f", "%2e%2e", "tiny%00", "x" * 300, "%ff", "\xff", "tiny%0d%0aX: y", "%1b[31m"]


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_odd_names_reach_nothing(serve: Serve, name: str) -> None:
    async with unharmed(serve) as gateway, listening(gateway) as port:
        for path in (f"/v1/models/{name}/predict", f"/v2/models/tiny/versions/{name}/infer", f"/{name}"):
            answer = await ask_raw(port, head("Content-Length: 0", "Connection: close", path=path))
            assert answer.split(b" ", 2)[1] in (b"404", b"400", b"405"), answer[:200]
            assert b'{"error":' in answer
            assert len(answer) < 1000
        assert gateway.upstream.calls == []


@pytest.mark.parametrize("name", ["..", "tiny\0", "x" * 300, "../tiny", ""])
async def test_odd_names_over_grpc_reach_nothing(serve: Serve, name: str) -> None:
    async with unharmed(serve) as gateway, calling(gateway) as stub:
        for request in (message(name), pb.ModelInferRequest(model_name="tiny", model_version=name or "..")):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stub.ModelInfer(request)
            assert error.value.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)
        assert gateway.upstream.calls == []


@pytest.mark.parametrize("host", ["[", "a b", "x:y:z", "\xff", "[::1"])
async def test_a_malformed_host_changes_nothing(serve: Serve, host: str) -> None:
    async with unharmed(serve) as gateway, listening(gateway) as port:
        answer = await ask_raw(port, f"GET /nowhere HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]


@pytest.mark.parametrize("given", ["0", "-5", "1e3", "9" * 30, "0000000001" + "9" * 400, "0000000001" + "9" * 5000])
async def test_an_odd_deadline_is_refused(serve: Serve, given: str) -> None:
    async with unharmed(serve) as gateway:
        headers = PNG_TYPE | {"x-request-timeout-ms": given}
        check_refused(await gateway.client.post(PREDICT, content=BRIGHT, headers=headers), 400, "expected milliseconds")


def exif_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(Image.new("RGB", (16, 8), (250,) * 3), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("L", (8, 8), level) for level in (250, 0, 0)]
    return file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])


IMAGES: dict[str, tuple[bytes, str | None]] = {  # and the label; None where it is refused
    "fits": (b"SIMPLE  =                    T".ljust(2880), None),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", None),
    "pdf": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", None),
    "pdf with an image behind": (b"%PDF-1.7\n" + BRIGHT, None),
    "script in a gif's clothes": (b"GIF89a/*" + b"\0" * 20 + b"*/=1;alert(1)", None),
    "image with an archive behind": (BRIGHT + b"PK\x03\x04" + bytes(100), "bright"),
    "thin": (file_of(Image.new("L", (65535, 1), 250)), "bright"),
    "16 bits": (file_of(Image.fromarray(np.full((8, 8), 64_000, np.uint16))), "bright"),
    "cmyk": (file_of(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), "bright"),
    "palette with alpha": (file_of(Image.new("P", (8, 8), 0), transparency=0), None),
    "exif": (exif_rotated(), "bright"),
    "animated": (animated(), "bright"),
    "truncated": (file_of(Image.effect_noise((64, 64), 99))[:2000], None),
}


@pytest.mark.parametrize("case", IMAGES)
async def test_odd_images(serve: Serve, case: str) -> None:
    file, label = IMAGES[case]
    async with unharmed(serve) as gateway:
        answer = await gateway.client.post(PREDICT, content=file, headers=PNG_TYPE)
        if case == "palette with alpha":  # it shows the contract's background: any label, but an answer
            assert answer.status_code == 200
        elif label is None:
            check_refused(answer, 400)
        else:
            assert answer.json()["predictions"][0]["label"] == label


async def test_a_url_is_never_fetched(serve: Serve) -> None:
    num_fetched = 0

    def fetched(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_fetched
        num_fetched += 1
        writer.close()

    server = await asyncio.start_server(fetched, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"
    async with server, unharmed(serve) as gateway:
        post = gateway.client.post
        encoded = base64.b64encode(url.encode()).decode()
        for sent in ({"json": {"image": url}}, {"json": {"image": encoded}}, {"json": {"images": [{"url": url}]}}):
            check_refused(await post(PREDICT, **sent), 400, "expected an image")
        check_refused(await post(PREDICT, content=url, headers=PNG_TYPE), 400, "expected an image")
        check_refused(await post(PREDICT, files={"image": url.encode()}), 400, "expected an image")
        check_refused(await post(PREDICT, data={"image": url}), 415)
        check_refused(await post(INFER, content=document(datatype="BYTES", shape=[1], data=[url])), 400)
        await asyncio.sleep(0)
    assert num_fetched == 0


async def test_control_characters_stay_in_one_log_record(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    evil = 'a\r\n{"level":"INFO"}\x1b[31m\u202e\u2028'
    async with unharmed(serve) as gateway:
        quoted = "".join(f"%{byte:02x}" for byte in evil.encode())
        await gateway.client.post(f"/v1/models/{quoted}/predict", content=b"", headers={"x-request-id": "b\x1b[2Jc"})
        await gateway.client.post(INFER, content=document(name=evil))
        async with calling(gateway) as stub:
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ModelInfer(pb.ModelInferRequest(model_name=evil, id=evil))
    lines = capsys.readouterr().out.splitlines()
    records = [json.loads(line) for line in lines]
    assert sum(record["status"] >= 400 for record in records) == len(records) == 3
    assert all(text.isprintable() for record in records for text in record.values() if isinstance(text, str))


async def test_random_requests_make_no_series(serve: Serve) -> None:
    rng = random.Random(0)

    def word() -> str:
        return "".join(rng.choices(string.ascii_letters + string.digits + "-_.%~", k=rng.randrange(1, 20)))

    async with unharmed(serve) as gateway:
        for _ in range(1500):
            name = word()
            path = rng.choice([f"/{name}", f"/v1/models/{name}/predict", f"/v2/models/tiny/versions/{name}/infer"])
            method = rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "TRACE", word().upper()[:6]])
            answer = await gateway.client.request(method, path)
            assert 400 <= answer.status_code < 500, (method, path)
        assert gateway.upstream.calls == []


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
