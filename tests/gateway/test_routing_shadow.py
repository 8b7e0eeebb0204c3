"""Shadows as a client meets them: not at all, but for what is counted and kept of them."""

import asyncio
import json
from typing import Any

from gateway.call import MAX_PRIORITY, Ask
from gateway.error import UpstreamFailed
from gateway.v2 import read_request
from tests.gateway.asking import Route, body, who
from tests.gateway.listening import until

SHADOW = """
routes:
  - name: tiny
    targets: [{model: tiny, version: 1}]
    shadow: {model: tiny, version: 2, fraction: 1, max_inflight: 1}
"""
SHADOW_OTHERWISE = SHADOW.replace("model: tiny, version: 2, fraction", "model: small, fraction")


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


def shadows(gateway: Any) -> dict[str, int]:
    """The copies of the route's requests by what came of them."""
    return {
        result: int(gateway.metric("gateway_shadow_requests_total", route="tiny", result=result))
        for result in ("agreed", "disagreed", "failed", "dropped")
    }
