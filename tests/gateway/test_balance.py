import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from tritonclient.grpc import service_pb2 as pb

from contract.tensor import Tensors
from gateway.balance import BalanceMetrics, Balancer
from gateway.error import DeadlineExceeded, GatewayError, UpstreamFailed, UpstreamRefused, UpstreamUnavailable
from gateway.upstream import IndexEntry

X: Tensors = {"x": np.ones((1, 2), np.float32)}
LOST = UpstreamUnavailable("lost")
UNSENT = UpstreamUnavailable("refused", unsent=True)
FAILED = UpstreamFailed("the model failed")
LATE = DeadlineExceeded("late")


class Server:
    """Serves `models` (like m/1). `errors` fail one model's calls, `down` everything; calls wait at the gate."""

    def __init__(self, *models: str) -> None:
        self.models = set(models)
        self.errors: dict[str, GatewayError] = {}
        self.down: GatewayError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.calls = 0
        self.closed = False

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        await asyncio.sleep(0)
        if self.down is not None:
            raise self.down
        return [
            IndexEntry(name, version, True, "") for name, _, version in (m.partition("/") for m in sorted(self.models))
        ]

    async def infer(
        self,
        name: str,
        version: str,
        tensors: Tensors,
        timeout_s: float,
        *,
        priority: int = 0,
        parameters: Mapping[str, Any] | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> dict[str, NDArray[Any]]:
        await self._work(name)
        return {"y": np.asarray(tensors["x"])}

    async def stream(self, requests: AsyncIterator[Any], timeout_s: float) -> AsyncIterator[Any]:
        async for request in requests:
            await self._work(request.model_name)
            yield pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(id=request.id))

    async def model_metadata(self, name: str, version: str, timeout_s: float) -> Any:
        await self._work(name)
        return "metadata"

    async def model_config(self, name: str, version: str, timeout_s: float) -> Any:
        await self._work(name)
        return "config"

    async def model_statistics(self, name: str, version: str, timeout_s: float) -> Any:
        await self._work(name)
        return "statistics"

    async def close(self) -> None:
        self.closed = True

    async def _work(self, name: str) -> None:
        self.calls += 1
        assert not self.closed
        await self.gate.wait()
        if (error := self.down or self.errors.get(name)) is not None:
            raise error


class Cluster:
    """A balancer over servers a, b, c ... behind one name, with a clock that a test moves."""

    def __init__(self, *servers: Server, **options: Any) -> None:
        self.now = 100.0
        self.registry = CollectorRegistry()
        self.servers = {f"{letter}:1": server for letter, server in zip("abcdefgh", servers, strict=False)}
        self.names: list[str] = list(self.servers)
        defaults: dict[str, Any] = {"clock": lambda: self.now, "jitter": lambda: 0.0}
        self.balancer = Balancer(
            ["triton:1"],
            self.servers.__getitem__,
            resolve=self._resolve,
            metrics=BalanceMetrics(self.registry),
            **(defaults | options),
        )

    async def _resolve(self, address: str) -> Sequence[str]:
        return list(self.names)

    async def index(self) -> set[str]:
        """What is ready, as name/version."""
        return {f"{e.name}/{e.version}" for e in await self.balancer.index(5) if e.ready}

    async def resolve(self) -> None:
        """Let the next look-up be due, and take it in."""
        self.now += 5
        await self.index()
        await settle()
        await self.index()

    def ask(self, model: str = "m", **options: Any) -> "asyncio.Task[dict[str, NDArray[Any]]]":
        return asyncio.ensure_future(self.balancer.infer(model, "1", X, 5, **options))

    async def fail(self, error: type[Exception], times: int = 1, model: str = "m") -> None:
        for _ in range(times):
            with pytest.raises(error):
                await self.ask(model)

    def rich(self, calls: int = 100) -> "Cluster":
        """As if that many calls had been made: the retry budget allows some."""
        for _ in range(calls):
            self.balancer.budget.earn()
        return self

    def metric(self, name: str, endpoint: str | None = None) -> float | None:
        return self.registry.get_sample_value(name, {} if endpoint is None else {"endpoint": endpoint})


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


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


async def test_what_cannot_be_reached_is_left_alone_until_its_index_answers() -> None:
    two = Cluster(a := Server("m/1", "n/1"), Server("m/1", "n/1")).rich()
    await two.index()
    a.down = UNSENT
    await asyncio.gather(*(two.ask() for _ in range(4)))
    await settle()
    assert (two.metric("gateway_upstream_endpoint_up", "a:1"), two.metric("gateway_upstream_breaker_state", "a:1")) == (
        0,
        2,
    )
    assert two.metric("gateway_upstream_ejections_total", "a:1") == 1
    tried = a.calls
    await asyncio.gather(*(two.ask(model) for model in "mnmn"))
    assert a.calls == tried
    a.down = None
    await two.index()
    await asyncio.gather(*(two.ask() for _ in range(4)))
    assert a.calls == tried + 2
    assert two.metric("gateway_upstream_breaker_state", "a:1") == 0


async def test_a_model_that_was_unloaded_takes_no_server_away() -> None:
    two = Cluster(a := Server("m/1", "n/1"), Server("m/1", "n/1")).rich()
    await two.index()
    a.models.discard("m/1")
    a.errors["m"] = UNSENT
    await asyncio.gather(*(two.ask() for _ in range(6)))
    await settle()
    assert a.calls <= 3
    calls = a.calls
    await asyncio.gather(*(two.ask("n") for _ in range(4)), *(two.ask() for _ in range(4)))
    assert a.calls > calls
    assert two.metric("gateway_upstream_endpoint_up", "a:1") == 1
    assert two.metric("gateway_upstream_ejections_total", "a:1") == 0


async def test_while_a_server_is_asked_what_it_lost_it_gets_no_more_of_it() -> None:
    one = Cluster(a := Server("m/1", "n/1"))
    await one.index()
    told = asyncio.Event()
    index = a.index

    async def hesitate(timeout_s: float) -> Sequence[IndexEntry]:
        await told.wait()
        return await index(timeout_s)

    a.index = hesitate  # type: ignore[method-assign]
    a.errors["m"] = UNSENT
    await one.fail(UpstreamUnavailable, 10)
    assert a.calls == 1
    await one.ask("n")
    del a.errors["m"]
    told.set()
    await settle()
    await one.ask()


async def test_a_server_that_comes_back_has_a_clean_slate() -> None:
    one = Cluster(a := Server("m/1"))
    await one.index()
    a.gate.clear()
    asks = [one.ask() for _ in range(10)]
    await settle()
    a.down = LOST
    a.gate.set()
    await asyncio.gather(*asks, return_exceptions=True)
    await settle()
    a.down = None
    await one.index()
    await one.ask()
    assert one.metric("gateway_upstream_breaker_state", "a:1") == 0


async def test_a_breaker_goes_with_its_model() -> None:
    one = Cluster(a := Server("m/1", "n/1"))
    await one.index()
    a.errors["m"] = FAILED
    await one.fail(UpstreamFailed, 5)
    assert one.metric("gateway_upstream_breaker_state", "a:1") == 2
    a.models.discard("m/1")
    await one.index()
    assert one.metric("gateway_upstream_breaker_state", "a:1") == 0


@pytest.mark.parametrize("error", [LOST, LATE])
async def test_silence_opens_the_breaker_and_one_probe_at_a_time_heals_it(error: GatewayError) -> None:
    one = Cluster(a := Server("m/1", "n/1"))
    await one.index()
    a.errors["m"] = error
    await one.fail(type(error), 5)
    await one.fail(UpstreamUnavailable, 20)  # at once, whatever the server would say
    assert a.calls == 5
    assert one.metric("gateway_upstream_breaker_state", "a:1") == 2
    await one.ask("n")  # others go on
    await one.index()
    one.now += 0.5
    assert one.metric("gateway_upstream_breaker_state", "a:1") == 1
    await one.fail(type(error))
    await one.fail(UpstreamUnavailable)
    assert a.calls == 7
    one.now += 0.5  # it has doubled
    await one.fail(UpstreamUnavailable)
    assert a.calls == 7
    one.now += 0.5
    del a.errors["m"]
    a.gate.clear()
    probe = one.ask()
    await settle()
    await one.fail(UpstreamUnavailable)
    probe.cancel()  # its place is free again
    await settle()
    probe = one.ask()
    await settle()
    a.gate.set()
    await probe
    await asyncio.gather(*(one.ask() for _ in range(3)))
    assert one.metric("gateway_upstream_breaker_state", "a:1") == 0
    assert one.metric("gateway_upstream_ejections_total", "a:1") == 2


async def test_what_was_sent_before_the_breaker_opened_does_not_open_it_further() -> None:
    one = Cluster(a := Server("m/1"))
    await one.index()
    a.errors["m"] = LOST
    a.gate.clear()
    asks = [one.ask() for _ in range(50)]
    await settle()
    a.gate.set()
    await asyncio.gather(*asks, return_exceptions=True)
    assert one.metric("gateway_upstream_ejections_total", "a:1") == 1
    one.now += 0.5
    del a.errors["m"]
    await one.ask()


async def test_a_model_that_fails_is_asked_elsewhere_but_never_shut() -> None:
    two = Cluster(a := Server("m/1"), b := Server("m/1"))
    await two.index()
    a.errors["m"] = FAILED
    await asyncio.gather(*(two.ask() for _ in range(10)), return_exceptions=True)
    assert a.calls == 5
    await asyncio.gather(*(two.ask() for _ in range(10)))
    assert a.calls == 5
    b.errors["m"] = FAILED  # somebody's requests make it fail everywhere
    await two.fail(UpstreamFailed, 20)
    a.errors.clear()
    b.errors.clear()
    await two.ask()  # that shuts it for nobody else


async def test_refusals_cancellations_and_impatience_are_not_the_server_s_fault() -> None:
    one = Cluster(a := Server("m/1"))
    await one.index()
    a.errors["m"] = UpstreamRefused("bad")
    await one.fail(UpstreamRefused, 20)
    a.errors["m"] = LATE
    for _ in range(20):
        with pytest.raises(DeadlineExceeded):
            await one.balancer.infer("m", "1", X, 0.1)
    a.gate.clear()
    asks = [one.ask() for _ in range(20)]
    await settle()
    for ask in asks:
        ask.cancel()
    await asyncio.gather(*asks, return_exceptions=True)
    a.gate.set()
    del a.errors["m"]
    await one.ask()
    assert one.metric("gateway_upstream_ejections_total", "a:1") == 0
    assert one.metric("gateway_upstream_pending", "a:1") == 0


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


async def requests_of(ids: Iterable[str], **parameters: int) -> AsyncIterator[Any]:
    for one in ids:
        request = pb.ModelInferRequest(model_name="m", model_version="1", id=one)
        for name, value in parameters.items():
            request.parameters[name].int64_param = value
        yield request


async def test_a_stream_stays_with_one_server_and_is_pending_while_it_lasts() -> None:
    two = Cluster(a := Server("m/1"), b := Server("m/1"))
    await two.index()
    answers = [r.infer_response.id async for r in two.balancer.stream(requests_of("123", sequence_id=7), 5)]
    assert answers == ["1", "2", "3"]
    assert sorted((a.calls, b.calls)) == [0, 3]
    assert [r async for r in two.balancer.stream(requests_of(""), 5)] == []
    async with aclosing(two.balancer.stream(requests_of("123"), 5)) as stream:  # type: ignore[type-var]
        await anext(stream)
        assert sum(endpoint.pending for endpoint in two.balancer.endpoints) == 1
    assert sum(endpoint.pending for endpoint in two.balancer.endpoints) == 0
    a.errors["m"] = b.errors["m"] = UNSENT
    with pytest.raises(UpstreamUnavailable):
        _ = [r async for r in two.balancer.stream(requests_of("1"), 5)]


async def test_a_stream_that_answered_and_ran_out_of_time_is_no_silence() -> None:
    one = Cluster(a := Server("m/1"))
    await one.index()
    streams = [one.balancer.stream(requests_of("12"), 5) for _ in range(6)]
    for stream in streams:
        await anext(stream)
    a.errors["m"] = LATE
    for stream in streams:
        with pytest.raises(DeadlineExceeded):
            await anext(stream)
    del a.errors["m"]
    await one.ask()


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
