"""Routes as a client meets them: through the whole gateway, over HTTP and gRPC."""

import asyncio
import base64
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc.aio as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from contract import Repository
from gateway.call import Ask
from gateway.dataplane import MAX_PRIORITY
from gateway.error import UpstreamFailed, UpstreamRefused, UpstreamUnavailable
from gateway.process import bound_socket
from gateway.rpc import grpc_server
from gateway.v2 import read_request

Route = Callable[..., Any]

OWN_NAME = """
routes:
  - name: public
    targets: [{model: tiny, version: 1, weight: 1}, {model: tiny, version: 2, weight: 0}]
"""
TAKEOVER = "routes: [{name: tiny, targets: [{model: tiny, version: 1}]}]"
GROUPS = """
routes:
  - name: tiny
    targets: [{model: tiny, version: 1}]
    rules:
      - when: {header: X-Group, equals: [b]}
        targets: [{model: tiny, version: 2}]
      - when: {tenant: [acme]}
        targets: [{model: small}]
"""
STICKY = """
routes:
  - name: tiny
    sticky: {header: X-User}
    targets: [{model: tiny, version: 1}, {model: tiny, version: 2}]
"""
FALLBACK = """
routes:
  - name: tiny
    targets: [{model: tiny, version: 1}]
    fallback: {targets: [{model: tiny, version: 2}, {model: small}]}
"""
FALLBACK_IN_TIME = FALLBACK.replace("fallback: {", "fallback: {after_ms: 50, ")
SHADOW = """
routes:
  - name: tiny
    targets: [{model: tiny, version: 1}]
    shadow: {model: tiny, version: 2, fraction: 1, max_inflight: 1}
"""
SHADOW_OTHERWISE = SHADOW.replace("model: tiny, version: 2, fraction", "model: small, fraction")
IMAGE = np.full((1, 8, 8, 1), 250, np.uint8)


@pytest.fixture
def repository(tiny_repository: Repository, make_version: Any) -> Repository:
    """`tiny` with two versions that answer alike, and `small`, which says dark of everything."""
    make_version(tiny_repository.root, "tiny", 2)
    make_version(tiny_repository.root, "small", 1)
    path = tiny_repository.version_dir("small", "1") / "model.onnx"
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([9, 0, 0], np.float32), "bias"))
    onnx.save(model, path)
    return tiny_repository


@pytest.fixture
def route(serve: Any, repository: Repository, tmp_path: Path) -> Route:
    """`async with route(text, **settings) as gateway`: a gateway with these routes."""

    def start(text: str, **settings: Any) -> Any:
        path = tmp_path / "routes.yaml"
        path.write_text(text)
        return serve(repository, routes=path, **settings)

    return start


@asynccontextmanager
async def grpc_client(gateway: Any) -> AsyncIterator[Any]:
    listener = bound_socket("127.0.0.1", 0, share=False)
    port = listener.getsockname()[1]
    listener.listen()
    server = grpc_server(gateway.plane)
    await server.start(listener)
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        yield client
    finally:
        await client.close()
        await server.stop(0)


def tensor() -> Any:
    made = triton.InferInput("image", IMAGE.shape, "UINT8")
    made.set_data_from_numpy(IMAGE)
    return made


def png() -> str:
    file = io.BytesIO()
    Image.fromarray(IMAGE[0, :, :, 0]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def body(**parameters: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": IMAGE.shape, "datatype": "UINT8", "data": IMAGE.ravel().tolist()}
    return {"inputs": [tensor]} | ({"parameters": parameters} if parameters else {})


async def infer(gateway: Any, name: str = "tiny", *, headers: Any = None, **parameters: Any) -> Any:
    return await gateway.client.post(f"/v2/models/{name}/infer", json=body(**parameters), headers=headers)


async def who(gateway: Any, name: str = "tiny", **headers: str) -> str:
    answer = await infer(gateway, name, headers=headers)
    assert answer.status_code == 200, answer.text
    return f"{answer.json()['model_name']}/{answer.json()['model_version']}"


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happened():
            await asyncio.sleep(0)


async def test_a_canary_gets_its_share(route: Route) -> None:
    text = "routes: [{name: tiny, targets: [{model: tiny, version: 1, weight: 3}, {model: tiny, version: 2}]}]"
    async with route(text) as gateway:
        served = Counter([await who(gateway) for _ in range(400)])
        assert set(served) == {"tiny/1", "tiny/2"}
        assert 45 <= served["tiny/2"] <= 155  # 100 expected; a standard deviation is 8.7, so this is more than six
        for target, num in served.items():
            assert gateway.metric("gateway_route_total", route="tiny", target=target, kind="weight") == num


async def test_a_route_has_a_name_of_its_own(route: Route) -> None:
    async with route(OWN_NAME) as gateway:
        assert {await who(gateway, "public") for _ in range(20)} == {"tiny/1"}
        assert await who(gateway) == "tiny/2"
        assert (await gateway.client.get("/v1/models/public")).json()["name"] == "tiny"
        missing = await infer(gateway, "public/versions/1")
        assert (missing.status_code, "unknown model 'public'" in missing.json()["error"]) == (404, True)
        assert gateway.metric("gateway_requests_total", model="other", code="404") == 1
        assert gateway.metric("gateway_route_total", route="public", target="tiny/1", kind="weight") == 20


async def test_a_pinned_version_goes_past_the_route_that_took_the_name_over(route: Route) -> None:
    async with route(TAKEOVER) as gateway:
        assert await who(gateway) == "tiny/1"
        assert await who(gateway, "tiny/versions/2") == "tiny/2"
        assert gateway.metric("gateway_route_total", route="tiny", target="tiny/2", kind="pinned") == 1
        assert (await infer(gateway, "tiny/versions/3")).status_code == 404


async def test_predict_tells_who_served(route: Route) -> None:
    async with route(GROUPS) as gateway:
        answer = await gateway.client.post(
            "/v1/models/tiny/predict", json={"image": png()}, headers={"x-tenant": "acme"}
        )
        assert (answer.json()["model"], answer.json()["predictions"][0]["label"]) == ("small", "dark")


@pytest.mark.parametrize(
    ("headers", "expected", "kind"),
    [
        ({}, "tiny/1", "weight"),
        ({"x-group": "a"}, "tiny/1", "weight"),
        ({"x-group": "b"}, "tiny/2", "rule"),
        ({"x-tenant": "acme"}, "small/1", "rule"),
    ],
)
async def test_headers_and_tenants_decide_over_http_and_grpc(
    route: Route, headers: dict[str, str], expected: str, kind: str
) -> None:
    async with route(GROUPS) as gateway, grpc_client(gateway) as client:
        assert await who(gateway, **headers) == expected
        response = (await client.infer("tiny", [tensor()], headers=headers)).get_response()
        assert f"{response.model_name}/{response.model_version}" == expected
        assert gateway.metric("gateway_route_total", route="tiny", target=expected, kind=kind) == 2


async def test_a_key_stays_with_its_version_after_a_restart_too(route: Route) -> None:
    served = []
    for _ in range(2):
        async with route(STICKY) as gateway:
            served.append([await who(gateway, **{"x-user": f"user-{number}"}) for number in [*range(30), *range(30)]])
            assert gateway.metric("gateway_route_total", route="tiny", kind="sticky") == 60
    assert served[0] == served[1]
    assert served[0][:30] == served[0][30:]
    assert set(served[0]) == {"tiny/1", "tiny/2"}


@pytest.mark.parametrize("error", [UpstreamFailed("it broke"), UpstreamUnavailable("it is away")])
async def test_a_target_that_fails_is_followed_by_the_next(route: Route, error: Exception) -> None:
    async with route(FALLBACK) as gateway:
        gateway.upstream.error, gateway.upstream.failing = error, {("tiny", "1"), ("tiny", "2")}
        assert await who(gateway) == "small/1"
        assert [call[:2] for call in gateway.upstream.calls] == [("tiny", "1"), ("tiny", "2"), ("small", "1")]
        assert gateway.metric("gateway_route_total", route="tiny", target="small/1", kind="fallback") == 1
        assert gateway.metric("gateway_route_total", route="tiny") == 1
        assert gateway.metric("gateway_requests_total", model="small", version="1", code="200") == 1
        gateway.upstream.failing = None
        answer = await infer(gateway)
        assert (answer.status_code, answer.json()["error"]) in [(502, "it broke"), (503, "it is away")]
        assert gateway.metric("gateway_inflight_requests") == 0


async def test_a_slow_target_is_left_for_the_next_and_cancelled(route: Route) -> None:
    async with route(FALLBACK_IN_TIME) as gateway:
        gateway.upstream.gate.clear()
        asked = asyncio.create_task(who(gateway))
        await until(lambda: len(gateway.upstream.calls) == 3)  # the last one has all the time that is left
        gateway.upstream.gate.set()
        assert await asked == "small/1"
        assert gateway.upstream.cancelled == 2


async def test_a_bad_request_is_not_asked_again(route: Route) -> None:
    async with route(FALLBACK) as gateway:
        assert (await gateway.client.post("/v1/models/tiny/predict", json={"image": "AAAA"})).status_code == 400
        assert gateway.upstream.calls == []
        gateway.upstream.error, gateway.upstream.failing = UpstreamRefused("it is wrong"), {("tiny", "1")}
        assert (await infer(gateway)).status_code == 400
        assert len(gateway.upstream.calls) == 1
        assert gateway.metric("gateway_route_total", kind="fallback") == 0


async def test_a_target_that_is_not_served_is_skipped_and_each_fallback_asked_once(route: Route) -> None:
    async with route(FALLBACK.replace("version: 1", "version: 9").replace("version: 2", "version: 8")) as gateway:
        assert await who(gateway) == "small/1"
        assert gateway.metric("gateway_route_total", route="tiny", target="small/1", kind="fallback") == 1
        gateway.upstream.calls.clear()
        gateway.upstream.error = UpstreamFailed("it broke")
        assert (await infer(gateway)).status_code == 502
        assert [call[:2] for call in gateway.upstream.calls] == [("small", "1")]


async def test_a_version_that_goes_away_under_a_request_is_no_unknown_model(
    route: Route, repository: Repository
) -> None:
    async with route(FALLBACK) as gateway:
        gateway.upstream.gate.clear()
        gateway.upstream.error, gateway.upstream.failing = UpstreamFailed("it broke"), {("tiny", "1")}
        asked = asyncio.create_task(who(gateway))
        await until(lambda: len(gateway.upstream.calls) == 1)
        repository.version_dir("tiny", "2").rename(repository.root / "gone")
        await gateway.plane.catalog.refresh()
        gateway.upstream.gate.set()
        assert await asked == "small/1"


async def test_a_route_has_a_deadline_and_a_rule_its_own(route: Route) -> None:
    text = """
routes:
  - name: tiny
    deadline_ms: 60000
    targets: [{model: tiny, version: 1}]
    rules: [{when: {header: x-hurry, present: true}, deadline_ms: 10, targets: [{model: tiny, version: 2}]}]
"""
    async with route(text) as gateway, grpc_client(gateway) as client:
        gateway.upstream.gate.clear()
        assert (await infer(gateway, headers={"x-hurry": "1"})).status_code == 504
        with pytest.raises(InferenceServerException, match="time was up"):
            await client.infer("tiny", [tensor()], headers={"x-hurry": "1"})
        assert gateway.metric("gateway_requests_total", model="tiny", version="2", code="504") == 2


async def test_priority_reaches_triton_and_the_request_may_set_its_own(route: Route) -> None:
    text = """
routes:
  - {name: tiny, priority: 4, targets: [{model: tiny, version: 1}], rules: [
      {when: {header: x-batch, present: true}, priority: 7, targets: [{model: tiny, version: 1}]}]}
"""
    async with route(text) as gateway, grpc_client(gateway) as client:
        await infer(gateway)
        await infer(gateway, headers={"x-batch": "1"})
        await infer(gateway, priority=2)
        await client.infer("tiny", [tensor()], priority=3)
        await infer(gateway, "tiny/versions/1")
        await infer(gateway, priority=2, timeout=1_000_000, temperature=0.5)
        assert [call[2] for call in gateway.upstream.calls] == [4, 7, 2, 3, 0, 2]
        assert [call[3] for call in gateway.upstream.calls[-2:]] == [{}, {"temperature": 0.5}]


async def test_requests_of_different_priority_share_no_batch(route: Route) -> None:
    async with route(TAKEOVER, upstream_calls=1) as gateway:
        gateway.upstream.gate.clear()
        asked = [asyncio.create_task(infer(gateway, priority=number)) for number in (1, 2, 1, 2, 1)]
        await until(lambda: gateway.metric("gateway_inflight_requests") == 5 and len(gateway.upstream.calls) == 2)
        gateway.upstream.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
        batches = [(call[2], num) for call, num in zip(gateway.upstream.calls, gateway.upstream.batches, strict=True)]
        assert sorted(batches) == [(1, 1), (1, 2), (2, 1), (2, 1)]


@pytest.mark.parametrize(
    "parameters",
    [{"priority": 10}, {"priority": -1}, {"priority": "high"}, {"priority": True}, {"timeout": 0}, {"timeout": True}],
)
async def test_a_priority_or_timeout_that_is_none_is_refused(route: Route, parameters: dict[str, Any]) -> None:
    async with route(TAKEOVER) as gateway:
        answer = await infer(gateway, **parameters)
        assert (answer.status_code, "expected a p" in answer.json()["error"]) == (400, True)


async def test_the_timeout_of_a_request_is_kept(route: Route) -> None:
    async with route(FALLBACK) as gateway:
        gateway.upstream.gate.clear()
        assert (await infer(gateway, timeout=50_000)).status_code == 504
        assert len(gateway.upstream.calls) == 1  # no time is left for a fallback


async def test_a_shadow_that_agrees_is_counted_and_one_that_fails_too(route: Route) -> None:
    async with route(SHADOW) as gateway:
        assert await who(gateway) == "tiny/1"
        await until(lambda: shadows(gateway)["agreed"] == 1)
        gateway.upstream.error, gateway.upstream.failing = UpstreamFailed("it broke"), {("tiny", "2")}
        assert await who(gateway) == "tiny/1"
        await until(lambda: shadows(gateway)["failed"] == 1)
        assert gateway.metric("gateway_requests_total", code="200") == 2
        assert gateway.metric("gateway_requests_total") == 2
        assert (await gateway.client.get("/v1/routes/tiny/disagreements")).json()["disagreements"] == []
        assert (await gateway.client.get("/v1/routes/small/disagreements")).status_code == 404


async def test_counter_examples_are_kept(route: Route) -> None:
    async with route(SHADOW_OTHERWISE) as gateway:
        assert await who(gateway, **{"x-request-id": "a7"}) == "tiny/1"
        await until(lambda: shadows(gateway)["disagreed"] == 1)
        (example,) = (await gateway.client.get("/v1/routes/tiny/disagreements")).json()["disagreements"]
        assert (example["request_id"], example["target"]) == ("a7", "small/newest")
        assert example["top1"] == {"same": 0, "different": 1}
        (shown,) = (await gateway.client.get("/v1/routes")).json()["routes"]
        assert (shown["shadow"]["counts"]["disagreed"], shown["shadow"]["counts"]["top1_different"]) == (1, 1)


async def test_a_shadow_that_hangs_delays_no_answer_and_is_bounded(route: Route) -> None:
    async with route(SHADOW) as gateway:
        gateway.upstream.gate.clear()
        asked = [asyncio.create_task(who(gateway)) for _ in range(2)]
        await until(lambda: len(gateway.upstream.calls) == 2)
        gateway.upstream.gate.set()
        gateway.upstream.gate.clear()  # lets through who waits now, and holds who comes after: the shadow
        assert await asyncio.gather(*asked) == ["tiny/1", "tiny/1"]
        await until(lambda: len(gateway.upstream.calls) == 3)
        assert shadows(gateway) == {"agreed": 0, "disagreed": 0, "failed": 0, "dropped": 1}
        assert gateway.metric("gateway_inflight_requests") == 0
        gateway.upstream.gate.set()
        await until(lambda: shadows(gateway)["agreed"] == 1)


async def test_a_shadow_takes_no_part_in_the_call_that_it_copies(route: Route) -> None:
    async with route(SHADOW) as gateway:
        with gateway.plane.call(Ask("v2_grpc", "tiny")) as call:  # a stream holds its call while it writes
            await gateway.plane.infer(call, read_request(json.dumps(body(priority=2)).encode(), None))
            stages = list(call.stages)
            await until(lambda: shadows(gateway)["agreed"] == 1)
            assert (call.stages, call.served.label) == (stages, "tiny/1")
        assert [made[1:3] for made in gateway.upstream.calls] == [("1", 2), ("2", MAX_PRIORITY)]


async def test_a_shadow_goes_when_the_gateway_does(route: Route) -> None:
    async with route(SHADOW) as gateway:
        gateway.upstream.gate.clear()
        asked = asyncio.create_task(who(gateway))
        await until(lambda: len(gateway.upstream.calls) == 1)
        gateway.upstream.gate.set()
        gateway.upstream.gate.clear()
        await asked
        await until(lambda: len(gateway.upstream.calls) == 2)
    assert gateway.upstream.cancelled == 1


async def test_an_outage_under_a_route_is_counted_for_its_model(route: Route) -> None:
    async with route(OWN_NAME) as gateway:
        gateway.upstream.down = True
        await gateway.plane.catalog.refresh()
        assert (await infer(gateway, "public")).status_code == 503
        assert gateway.metric("gateway_requests_total", model="tiny", version="1", code="503") == 1
        assert gateway.metric("gateway_requests_total", model="other") == 0


async def test_a_refusal_for_want_of_room_is_counted_for_who_would_have_served(route: Route) -> None:
    async with route(FALLBACK.replace("version: 1", "version: 9"), max_inflight=1) as gateway:
        gateway.upstream.gate.clear()
        asked = asyncio.create_task(who(gateway))
        await until(lambda: len(gateway.upstream.calls) == 1)
        assert (await infer(gateway)).status_code == 429
        assert gateway.metric("gateway_requests_total", model="tiny", version="2", code="429") == 1
        gateway.upstream.gate.set()
        assert await asked == "tiny/2"


async def test_an_edit_of_the_file_comes_into_force_and_a_wrong_one_does_not(route: Route, tmp_path: Path) -> None:
    async with route(TAKEOVER) as gateway:
        first = (await gateway.client.get("/v1/routes")).json()
        assert (first["error"], first["tenant_header"]) == (None, "x-tenant")
        assert [route["name"] for route in first["routes"]] == ["tiny"]
        await edit(gateway, tmp_path, OWN_NAME)
        assert (await who(gateway), await who(gateway, "public")) == ("tiny/2", "tiny/1")
        second = (await gateway.client.get("/v1/routes")).json()
        assert second["revision"] != first["revision"]
        await edit(gateway, tmp_path, "routes: [{name: public}]")
        third = (await gateway.client.get("/v1/routes")).json()
        assert (third["revision"], third["routes"]) == (second["revision"], second["routes"])
        assert "targets: is missing" in third["error"]
        assert await who(gateway, "public") == "tiny/1"
        for result in ("applied", "refused"):
            assert gateway.metric("gateway_route_reloads_total", result=result) == 1


async def edit(gateway: Any, folder: Path, text: str) -> None:
    (folder / "routes.yaml").write_text(text)
    for _ in range(2):  # an edit is believed when two looks find the same
        await gateway.plane.routes.refresh()


def shadows(gateway: Any) -> dict[str, int]:
    """The copies of the route's requests by what came of them."""
    return {
        result: int(gateway.metric("gateway_shadow_requests_total", route="tiny", result=result))
        for result in ("agreed", "disagreed", "failed", "dropped")
    }
