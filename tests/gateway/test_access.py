"""Who may ask: every route and every call but health needs a key, where there are keys."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gateway import create_app
from gateway.access import ApiKey, new_key
from gateway.guard import OPEN_PATHS
from gateway.key_file import KeyFileError
from tests.gateway.attack import BRIGHT, INFER, PNG_TYPE, PREDICT, Serve, check_refused, document, message, unharmed
from tests.gateway.listening import calling, grpc_address, listening, until

SAID = "expected a good API key"


class Keys:
    """A file of keys, and the texts of those in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text, self.key = new_key("team-a")
        self.write(self.key)

    def write(self, *keys: ApiKey, more: str = "") -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text("".join(f"{key.line()}\n" for key in keys) + more)
        draft.replace(self.path)

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.text}"}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "api.keys")


def routes_of(routes: Iterable[Any]) -> Iterator[Any]:
    """Those of included routers as well."""
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from [route] if included is None else routes_of(included.routes)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer tg_wrong"},
        {"Authorization": "Basic dGc6dGc="},
        {"X-API-Key": "tg_wrong"},
        {"X-API-Key": "ü" * 3000},
        {"Authorization": "Bearer", "X-API-Key": " "},
    ],
)
async def test_no_route_but_health_answers_without_a_good_key(
    serve: Serve, keys: Keys, headers: dict[str, str]
) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    async with serve(api_keys=keys.path) as gateway:
        asked = 0
        for route in routes_of(create_app(gateway.plane).routes):
            path = route.path.replace("{name}", "tiny").replace("{version}", "1")
            for method in route.methods - {"HEAD"}:
                answer = await gateway.client.request(method, path, headers=sent)
                if path in OPEN_PATHS:
                    assert answer.status_code == 200, path
                else:
                    check_refused(answer, 401, SAID)
                    assert answer.headers["www-authenticate"] == "Bearer"
                    asked += 1
        check_refused(await gateway.client.get("/no/such/path", headers=sent), 401, SAID)
        assert asked > 20
        assert gateway.metric("gateway_unauthenticated_total", protocol="http") == asked + 1
        assert not gateway.upstream.calls


async def test_whoever_has_a_key_is_answered_and_named_in_the_log(
    serve: Serve, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(api_keys=keys.path, log_sample=1) as gateway:
        for headers in (
            keys.header,
            {"X-API-Key": keys.text},
            {"Authorization": f"bearer  {keys.text} "},
            {"Authorization": "Bearer for.a.proxy", "X-API-Key": keys.text},
        ):
            answer = await gateway.client.post(PREDICT, content=BRIGHT, headers=headers | PNG_TYPE)
            assert answer.status_code == 200, answer.text
        document = (await gateway.client.get("/openapi.json", headers=keys.header)).json()
        assert document["security"] == [{"bearer": []}, {"header": []}]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["key"] for line in lines if line["logger"] == "gateway.request"] == ["team-a"] * 4
    assert all(keys.text not in str(line) for line in lines)


async def test_the_fast_path_asks_for_the_key_as_well(serve: Serve, keys: Keys) -> None:
    body = document()
    async with (
        serve(api_keys=keys.path, poll_interval_s=0.02) as gateway,
        listening(gateway) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        check_refused(await client.post(INFER, content=body), 401, SAID)
        for _ in range(3):  # its header is known from the second time on
            assert (await client.post(INFER, content=body, headers=keys.header)).status_code == 200
        large = await client.post(INFER, content=body + b" " * 300_000)
        check_refused(large, 401, SAID)
        _, other = new_key("team-b")
        keys.write(other)  # the key is revoked
        await until(lambda: keys.key.digest not in gateway.plane.access.ring)
        check_refused(await client.post(INFER, content=body, headers=keys.header), 401, SAID)
        keys.write(other, keys.key)
        await until(lambda: keys.key.digest in gateway.plane.access.ring)
        assert (await client.post(INFER, content=body, headers=keys.header)).status_code == 200


async def test_no_call_but_health_is_answered_without_a_good_key(serve: Serve, keys: Keys) -> None:
    async with (
        serve(api_keys=keys.path) as gateway,
        grpc_address(gateway) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live
        assert (await stub.ServerReady(pb.ServerReadyRequest())).ready
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        calls: list[Any] = [
            lambda metadata, name=name: getattr(stub, name)(getattr(pb, f"{name}Request")(), metadata=metadata)
            for name in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
            if name not in ("ServerLive", "ServerReady", "ModelStreamInfer")
        ]
        streams: list[Any] = [
            lambda metadata: stub.ModelStreamInfer(metadata=metadata),
            lambda metadata: reflection.ServerReflectionInfo(metadata=metadata),
        ]
        for metadata in ((), (("authorization", "Bearer tg_wrong"),), (("x-api-key", ""),)):
            for call in [*(one(metadata) for one in calls), *(one(metadata) for one in streams)]:
                assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
                assert SAID in await call.details()
        assert gateway.metric("gateway_unauthenticated_total", protocol="grpc") == 3 * len(calls + streams)
        with pytest.raises(grpc.aio.AioRpcError) as hidden:  # health tells everybody of the server, and not of models
            await health.Check(health_pb2.HealthCheckRequest(service="no-such-model"))
        assert hidden.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "tiny" not in (hidden.value.details() or "")
        good = (("authorization", f"Bearer {keys.text}"),)
        assert (await health.Check(health_pb2.HealthCheckRequest(service="tiny"), metadata=good)).status == 1
        assert (await stub.ModelInfer(message(), metadata=good)).model_name == "tiny"
        assert (await stub.ModelInfer(message(), metadata=(("x-api-key", keys.text),))).model_name == "tiny"


async def test_a_stream_that_is_open_needs_a_good_key_for_each_request(serve: Serve, keys: Keys) -> None:
    async with serve(api_keys=keys.path, poll_interval_s=0.02) as gateway, calling(gateway) as stub:
        stream = stub.ModelStreamInfer(metadata=(("x-api-key", keys.text),))
        await stream.write(message())
        assert (await stream.read()).infer_response.model_name == "tiny"
        keys.write()
        await until(lambda: not gateway.plane.access.ring)
        await stream.write(message())
        assert SAID in (await stream.read()).error_message
        await stream.done_writing()


async def test_a_flood_without_keys_harms_nobody(serve: Serve, keys: Keys) -> None:
    async with serve(api_keys=keys.path) as gateway:
        gateway.client.headers.update(keys.header)
        before = gateway.num_series()
        answers = await asyncio.gather(
            *(
                gateway.client.post(PREDICT, content=bytes(100_000), headers={"Authorization": f"Bearer {i}"})
                for i in range(200)
            )
        )
        assert {answer.status_code for answer in answers} == {401}
        assert gateway.num_series() == before
        assert (await gateway.client.post(PREDICT, content=BRIGHT, headers=PNG_TYPE)).status_code == 200


async def test_a_key_ends_with_its_last_day(serve: Serve, keys: Keys) -> None:
    today = datetime.now(UTC).date()
    text, lasts = new_key("lasts", today)
    over, ended = new_key("ended", today - timedelta(days=1))
    keys.write(lasts, ended)
    async with serve(api_keys=keys.path, poll_interval_s=0.02) as gateway:
        assert (await gateway.client.get("/v1/models", headers={"X-API-Key": text})).status_code == 200
        assert (await gateway.client.get("/v1/models", headers={"X-API-Key": over})).status_code == 401
        gateway.plane.access._clock = lambda: lasts.until_unix_s + 1
        await until(lambda: not gateway.plane.access.ring)
        assert (await gateway.client.get("/v1/models", headers={"X-API-Key": text})).status_code == 401


async def test_a_bad_edit_changes_nothing_and_is_shown(
    serve: Serve, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(api_keys=keys.path, poll_interval_s=0.02) as gateway:
        keys.write(more="team-b:tg_the_key_itself\n")
        await until(lambda: gateway.metric("gateway_api_keys_in_force") == 0)
        assert (await gateway.client.get("/v1/models", headers=keys.header)).status_code == 200
        assert "line 1: expected name:sha256" in caplog.text
        assert "the_key_itself" not in caplog.text
        keys.write()
        await until(lambda: gateway.metric("gateway_api_keys_in_force") == 1)
        assert (await gateway.client.get("/v1/models", headers=keys.header)).status_code == 401  # no line, no access


async def test_a_file_that_cannot_be_opened_is_tried_again(
    serve: Serve, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    away = keys.path.with_suffix(".away")
    async with serve(api_keys=keys.path, poll_interval_s=0.02) as gateway:
        keys.path.rename(away)
        await until(lambda: gateway.metric("gateway_api_keys_in_force") == 0)
        await asyncio.sleep(0.1)
        assert caplog.text.count("No such file") == 1
        away.rename(keys.path)
        await until(lambda: gateway.metric("gateway_api_keys_in_force") == 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("team a:" + "0" * 64, "line 1: expected name:sha256"),
        ("team-a:" + "0" * 63, "line 1: expected name:sha256"),
        ("team-a:" + "0" * 64 + " until 2027-02-30", "line 1: day is out of range"),
        ("a:" + sha256(b"").hexdigest(), "line 1: this is the hash of no key"),
        ("a:" + "0" * 64 + "\nb:" + "0" * 64, "line 2: the key of 'a' is there twice"),
    ],
)
async def test_a_gateway_does_not_start_with_keys_it_cannot_read(
    serve: Serve, tmp_path: Path, line: str, said: str
) -> None:
    path = tmp_path / "keys"
    with pytest.raises(KeyFileError, match="No such file"):
        async with serve(api_keys=path):
            pass
    path.write_text(line)
    with pytest.raises(KeyFileError, match=said):
        async with serve(api_keys=path):
            pass


def test_a_fresh_key_is_long_and_only_its_hash_is_kept() -> None:
    text, key = new_key("a.b-c_9", date(2027, 1, 31))
    assert text.startswith("tg_")
    assert len(text) >= 43
    assert text not in key.line()
    assert key.line().endswith(" until 2027-01-31")
    assert new_key("a")[0] != new_key("a")[0]
    with pytest.raises(ValueError, match="expected a name"):
        new_key("a b")


async def test_without_a_file_everybody_may_ask(serve: Serve) -> None:
    async with unharmed(serve) as gateway:
        answer = await gateway.client.post(PREDICT, content=BRIGHT, headers=PNG_TYPE | {"Authorization": "Bearer x"})
        assert answer.status_code == 200
