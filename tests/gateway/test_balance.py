"""Who is asked: of several servers one that has the version, with the fewest calls pending, and once more elsewhere."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.error import UpstreamFailed, UpstreamRefused, UpstreamUnavailable
from gateway.upstream import IndexEntry
from tests.gateway.cluster import FAILED, LATE, LOST, UNSENT, Cluster, Server, settle


async def test_one_server_is_asked_as_if_nothing_stood_between() -> None:
    one = Cluster(Server("m/1"))
    assert await one.index() == {"m/1"}
    assert (await one.ask())["y"].tolist() == [[1, 1]]
    balancer = one.balancer
    assert [await ask("m", "1", 5) for ask in (balancer.model_metadata, balancer.model_config)] == [
        "metadata",
        "config",
    ]
    assert await balancer.model_statistics("", "", 5) == "statistics"
    for error in (UpstreamRefused("bad"), FAILED, LATE, LOST):
        one.servers["a:1"].errors["m"] = error
        await one.fail(type(error))
    await balancer.close()
    assert one.servers["a:1"].closed


async def test_the_endpoint_with_the_fewest_pending_calls_is_asked_in_turn() -> None:
    two = Cluster(a := Server("m/1"), b := Server("m/1"))
    await two.index()
    for server in (a, b):
        server.gate.clear()
    asks = [two.ask() for _ in range(6)]
    await settle()
    assert (a.calls, b.calls) == (3, 3)
    b.gate.set()
    await settle()
    asks += [two.ask() for _ in range(2)]
    await settle()
    assert (a.calls, b.calls) == (3, 5)
    a.gate.set()
    await asyncio.gather(*asks)
    assert two.metric("gateway_upstream_pending", "a:1") == two.metric("gateway_upstream_pending", "b:1") == 0


async def test_a_version_is_asked_where_it_is_ready_and_the_index_is_the_union() -> None:
    two = Cluster(a := Server("m/1", "n/1"), b := Server("m/1", "m/2"))
    assert await two.index() == {"m/1", "n/1", "m/2"}
    await asyncio.gather(*(two.ask("n") for _ in range(4)))
    assert (a.calls, b.calls) == (4, 0)
    await two.fail(UpstreamUnavailable, model="unknown")
    a.down = LOST
    assert await two.index() == {"m/1", "m/2"}
    b.down = LATE
    assert await two.index() == {"m/1", "m/2"}  # one silence is forgiven
    with pytest.raises(UpstreamUnavailable):
        await two.index()
    a.down, b.down = None, UpstreamFailed("can't list")  # it goes on with what it had
    assert await two.index() == {"m/1", "n/1", "m/2"}
    a.down = b.down
    with pytest.raises(UpstreamFailed):
        await two.index()


async def test_a_server_that_hangs_does_not_hold_up_the_others_beyond_its_time() -> None:
    two = Cluster(Server("m/1"), b := Server("m/2"))
    await two.index()

    async def hang(timeout_s: float) -> Sequence[IndexEntry]:
        await asyncio.Event().wait()
        return []

    b.index = hang  # type: ignore[method-assign]
    assert [e.version for e in await two.balancer.index(0.001) if e.ready] == ["1", "2"]  # one silence is forgiven
    assert [e.version for e in await two.balancer.index(0.001) if e.ready] == ["1"]


async def test_a_lost_connection_takes_no_server_away_and_a_lost_server_does() -> None:
    one = Cluster(server := Server("m/1"))
    await one.index()
    asked, index = [0], server.index

    async def lose_the_first(timeout_s: float) -> Sequence[IndexEntry]:
        asked[0] += 1
        if asked[0] == 1:
            raise LOST
        return await index(timeout_s)

    server.index = lose_the_first  # type: ignore[method-assign]
    assert await one.index() == {"m/1"}
    assert asked == [2]
    server.down = LOST
    with pytest.raises(UpstreamUnavailable):
        await one.index()


async def test_a_lost_call_is_tried_once_more_elsewhere_if_there_is_time_and_budget() -> None:
    three = Cluster(*(servers := [Server("m/1") for _ in range(3)]))
    await three.index()
    for server in servers[:2]:
        server.errors["m"] = LOST
    await three.fail(UpstreamUnavailable)  # nothing is saved yet
    assert three.metric("gateway_upstream_retry_budget_exhausted_total") == 1
    three.rich()
    before = sum(server.calls for server in servers)
    answers = await asyncio.gather(*(three.ask() for _ in range(3)), return_exceptions=True)
    spent = three.metric("gateway_upstream_failovers_total")
    assert spent == sum(server.calls for server in servers) - before - 3 > 0
    assert any(isinstance(answer, dict) for answer in answers)

    one = Cluster(Server("m/1"), Server("m/1")).rich()
    await one.index()
    for server in one.servers.values():
        server.gate.clear()
        server.errors["m"] = LOST
    late = one.ask()
    await settle()
    one.now += 5
    for server in one.servers.values():
        server.gate.set()
    with pytest.raises(UpstreamUnavailable):
        await late
    assert one.metric("gateway_upstream_failovers_total") == 0


async def test_where_there_is_one_server_a_lost_call_is_sent_to_it_once_more() -> None:
    class LosesFive(Server):
        async def _work(self, name: str) -> None:
            first = self.calls < 5
            await super()._work(name)
            if first:
                raise LOST

    one = Cluster(server := LosesFive("m/1")).rich()
    await one.index()
    server.gate.clear()
    asks = [one.ask() for _ in range(5)]
    await settle()
    one.now += 0.01
    server.gate.set()
    assert len(await asyncio.gather(*asks)) == 5
    assert server.calls == 10
    assert one.metric("gateway_upstream_failovers_total") == 5
    server.errors["m"] = UpstreamUnavailable("its queue is full")  # an answer, and asking again makes it no shorter
    await one.fail(UpstreamUnavailable)
    assert server.calls == 11


async def test_a_sequence_stays_with_one_server_and_is_not_sent_twice() -> None:
    two = Cluster(Server("m/1"), Server("m/1")).rich()
    await two.index()
    homes = {}
    for sequence in [*range(1, 20), "name"]:
        before = {address: server.calls for address, server in two.servers.items()}
        await asyncio.gather(*(two.ask(parameters={"sequence_id": sequence}) for _ in range(3)))
        grown = {a: server.calls - before[a] for a, server in two.servers.items() if server.calls > before[a]}
        assert list(grown.values()) == [3]
        homes[sequence] = next(iter(grown))
    assert set(homes.values()) == set(two.servers)
    home = two.servers[homes[7]]
    home.errors["m"] = LOST
    with pytest.raises(UpstreamUnavailable):
        await two.ask(parameters={"sequence_id": 7})
    home.errors["m"] = UNSENT
    await two.ask(parameters={"sequence_id": 7})
