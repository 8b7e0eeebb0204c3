"""Servers join, leave, and come back."""

import asyncio

import pytest

from gateway.error import UpstreamUnavailable
from tests.gateway.cluster import UNSENT, Cluster, Server, settle


async def test_addresses_join_and_leave_with_their_calls_and_series() -> None:
    two = Cluster(a := Server("m/1"), b := Server("m/1"))
    await two.index()
    b.gate.clear()
    asks = [two.ask() for _ in range(4)]
    await settle()
    sent = b.calls
    assert sent > 0
    two.names = ["a:1"]
    await two.resolve()
    assert two.metric("gateway_upstream_endpoint_up", "b:1") is None
    assert not b.closed
    await asyncio.gather(*(two.ask() for _ in range(3)))
    assert b.calls == sent
    b.gate.set()
    await asyncio.gather(*asks)
    await settle()
    assert b.closed
    two.servers["b:1"] = Server("m/1")
    two.names = ["a:1", "b:1"]
    await two.resolve()
    await asyncio.gather(*(two.ask() for _ in range(4)))
    assert two.servers["b:1"].calls == 2
    two.names = []
    await two.resolve()
    await two.ask()  # an empty answer changes nothing
    await two.balancer.close()
    assert a.closed
    assert two.servers["b:1"].closed


async def test_an_address_that_comes_back_while_its_calls_last_is_the_same_endpoint() -> None:
    two = Cluster(Server("m/1"), b := Server("m/1"))
    await two.index()
    b.gate.clear()
    asks = [two.ask() for _ in range(2)]
    await settle()
    two.names = ["a:1"]
    await two.resolve()
    two.names = ["a:1", "b:1"]
    await two.resolve()
    b.gate.set()
    await asyncio.gather(*asks)
    await settle()
    assert not b.closed
    assert two.metric("gateway_upstream_pending", "b:1") == 0


async def test_a_server_that_is_away_has_its_name_looked_up_again_soon() -> None:
    one = Cluster(a := Server("m/1"), Server("m/1"))
    one.names = ["a:1"]
    await one.index()
    a.down = UNSENT
    one.names = ["b:1"]
    one.now += 1
    await one.fail(UpstreamUnavailable)
    await settle()
    assert await one.index() == {"m/1"}
    await one.ask()
    assert a.closed


async def test_everything_down_fails_at_once_and_recovers_by_itself() -> None:
    two = Cluster(*(servers := [Server("m/1"), Server("m/1")])).rich()
    await two.index()
    for server in servers:
        server.down = UNSENT
    with pytest.raises(UpstreamUnavailable):
        await two.index()
    await two.fail(UpstreamUnavailable, 50)
    assert sum(server.calls for server in servers) == 0
    for server in servers:
        server.down = None
    assert await two.index() == {"m/1"}
    await two.ask()


async def test_a_name_that_cannot_be_resolved_is_no_server() -> None:
    none = Cluster()
    with pytest.raises(UpstreamUnavailable, match="can't be resolved"):
        await none.index()
    await none.fail(UpstreamUnavailable)
