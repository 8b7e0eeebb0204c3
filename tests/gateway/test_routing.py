"""Routes as a client meets them: through the whole gateway, over HTTP and gRPC."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import InferenceServerException

from contract import Repository
from gateway.error import UpstreamFailed, UpstreamRefused, UpstreamUnavailable
from tests.gateway.asking import Route, infer, png, tensor, who
from tests.gateway.listening import until

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
    route: Route, headers: dict[str, str], expected: str, kind: str, grpc_client: Any
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
    route: Route, routed_repository: Repository
) -> None:
    async with route(FALLBACK) as gateway:
        gateway.upstream.gate.clear()
        gateway.upstream.error, gateway.upstream.failing = UpstreamFailed("it broke"), {("tiny", "1")}
        asked = asyncio.create_task(who(gateway))
        await until(lambda: len(gateway.upstream.calls) == 1)
        routed_repository.version_dir("tiny", "2").rename(routed_repository.root / "gone")
        await gateway.plane.catalog.refresh()
        gateway.upstream.gate.set()
        assert await asked == "small/1"


async def test_a_version_taken_back_is_followed_by_the_one_before_it_at_once(
    serve: Any, routed_repository: Repository
) -> None:
    async with serve(routed_repository) as gateway:
        assert await who(gateway) == "tiny/2"
        routed_repository.version_dir("tiny", "2").rename(
            routed_repository.root / "gone"
        )  # the gateway hasn't looked yet
        gateway.upstream.error, gateway.upstream.failing = UpstreamUnavailable("it is not loaded"), {("tiny", "2")}
        assert [await who(gateway) for _ in range(3)] == ["tiny/1"] * 3
        assert (await infer(gateway, "tiny/versions/2")).status_code == 404


async def test_a_target_taken_back_is_followed_by_another_of_its_route_at_once(
    route: Route, routed_repository: Repository
) -> None:
    text = (
        "routes: [{name: tiny, targets: [{model: tiny, version: 2, weight: 95}, {model: tiny, version: 1, weight: 5}]}]"
    )
    async with route(text) as gateway:
        while await who(gateway) != "tiny/2":
            pass
        routed_repository.version_dir("tiny", "2").rename(routed_repository.root / "gone")  # nobody has looked yet
        gateway.upstream.error, gateway.upstream.failing = UpstreamUnavailable("it is not loaded"), {("tiny", "2")}
        assert [await who(gateway) for _ in range(20)] == ["tiny/1"] * 20


async def test_what_waited_in_vain_and_was_answered_by_a_fallback_was_not_shed(route: Route) -> None:
    async with route(FALLBACK_IN_TIME, upstream_calls=1) as gateway:
        gateway.upstream.gate.clear()
        asked = [asyncio.create_task(who(gateway)) for _ in range(3)]
        await until(lambda: ("small", "1") in [call[:2] for call in gateway.upstream.calls])
        gateway.upstream.gate.set()
        assert await asyncio.gather(*asked) == ["small/1"] * 3
        assert gateway.metric("gateway_shed_total", reason="deadline") == 0


async def test_a_route_has_a_deadline_and_a_rule_its_own(route: Route, grpc_client: Any) -> None:
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


async def test_priority_reaches_triton_and_the_request_may_set_its_own(route: Route, grpc_client: Any) -> None:
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
