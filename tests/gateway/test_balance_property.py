"""Whatever happens, in whatever order: counts return to zero, attempts stay within the budget, nothing stays open."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from contract.tensor import Tensors
from gateway.balance import Balancer
from gateway.error import DeadlineExceeded, GatewayError, UpstreamFailed, UpstreamRefused, UpstreamUnavailable
from gateway.upstream import Batch, IndexEntry, Upstream

X: Tensors = {"x": np.ones(1, np.float32)}
ADDRESSES = [f"10.0.0.{i}:1" for i in range(4)]
FATES: list[GatewayError | None] = [
    None,
    UpstreamUnavailable("lost", lost=True),
    UpstreamUnavailable("refused", unsent=True),
    UpstreamFailed("failed"),
    UpstreamRefused("refused"),
    DeadlineExceeded("late"),
]


class World:
    """Servers whose calls end when, and as, a test decides."""

    def __init__(self) -> None:
        self.now = 0.0
        self.names: list[str] = ADDRESSES[:2]
        self.away: set[str] = set()
        self.servers: list[Server] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.asks: list[asyncio.Task[Any]] = []
        self.attempts = 0
        self.balancer = Balancer(
            ["triton:1"], self.connect, resolve=self.resolve, clock=lambda: self.now, jitter=lambda: 0.5
        )

    def connect(self, address: str) -> Upstream:
        self.servers.append(Server(self, address))
        return self.servers[-1]

    async def resolve(self, address: str) -> Sequence[str]:
        return self.names

    async def index(self) -> None:
        await asyncio.gather(self.balancer.index(5), return_exceptions=True)

    def ask(self) -> None:
        self.asks.append(asyncio.ensure_future(self.balancer.infer(Batch("m", "1", [X]), 5)))

    def end(self, which: int, fate: GatewayError | None) -> None:
        waiting = [call for call in self.waiting if not call.done()]
        if waiting:
            call = waiting[which % len(waiting)]
            call.set_exception(fate) if fate is not None else call.set_result(None)

    def cancel(self, which: int) -> None:
        if self.asks:
            self.asks[which % len(self.asks)].cancel()

    async def finish(self) -> list[Any]:
        """Let everything end well, and return how the asks ended."""
        self.away.clear()
        while not all(ask.done() for ask in self.asks):
            self.end(0, None)
            await asyncio.sleep(0)
        return await asyncio.gather(*self.asks, return_exceptions=True)


class Server:
    def __init__(self, world: World, address: str) -> None:
        self.world = world
        self.address = address
        self.closed = False
        self.in_hand = 0

    async def index(self, timeout_s: float) -> Sequence[IndexEntry]:
        assert not self.closed
        await asyncio.sleep(0)
        if self.address in self.world.away:
            raise UpstreamUnavailable("away", unsent=True)
        return [IndexEntry("m", "1", True, "")]

    async def infer(self, batch: Batch, timeout_s: float) -> dict[str, NDArray[Any]]:
        assert not self.closed
        self.world.attempts += 1
        call = asyncio.get_running_loop().create_future()
        self.world.waiting.append(call)
        self.in_hand += 1
        try:
            await call
        finally:
            self.in_hand -= 1
        return {}

    def stream(self, requests: Any, timeout_s: float) -> Any:
        raise NotImplementedError

    async def model_metadata(self, name: str, version: str, timeout_s: float) -> Any:
        raise NotImplementedError

    model_config = model_statistics = model_metadata

    async def close(self) -> None:
        assert self.in_hand == 0
        self.closed = True


which = st.integers(0, 30)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 12)),
        st.tuples(st.just("end"), which, st.sampled_from(FATES)),
        st.tuples(st.just("cancel"), which),
        st.tuples(st.just("names"), st.sets(st.sampled_from(ADDRESSES))),
        st.tuples(st.just("away"), st.sets(st.sampled_from(ADDRESSES))),
        st.tuples(st.just("index")),
        st.tuples(st.just("wait"), st.sampled_from([0.3, 1.0, 5.0, 40.0])),
        st.tuples(st.just("settle")),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps)
def test_whatever_happens_counts_return_to_zero_and_it_heals(plan: list[tuple[Any, ...]]) -> None:
    async def scenario() -> None:
        world = World()
        await world.index()
        for step in plan:
            match step:
                case ("ask", num):
                    for _ in range(num):
                        world.ask()
                case ("end", call, fate):
                    world.end(call, fate)
                case ("cancel", ask):
                    world.cancel(ask)
                case ("names", names):
                    world.names = sorted(names)
                case ("away", away):
                    world.away = away
                case ("index",):
                    await world.index()
                case ("wait", seconds):
                    world.now += seconds
                case ("settle",):
                    for _ in range(5):
                        await asyncio.sleep(0)
            for endpoint in world.balancer.endpoints:
                server: Any = endpoint.upstream
                assert endpoint.pending >= server.in_hand
        await asyncio.sleep(0)
        for ended in await world.finish():
            assert isinstance(ended, dict | GatewayError | asyncio.CancelledError), ended
        assert world.attempts * 10 <= len(world.asks) * 11
        await heals(world)

    asyncio.run(scenario())


async def heals(world: World) -> None:
    """Everything is there again: so it is asked again, all of it, and what left is closed."""
    world.names = ADDRESSES[:3]
    world.now += 60
    await world.index()
    for _ in range(5):
        await asyncio.sleep(0)
    await world.index()
    assert [endpoint.pending for endpoint in world.balancer.endpoints] == [0, 0, 0]
    for _ in range(2):  # half-open ones take one call each
        world.asks = []
        for _ in range(3):
            world.ask()
        await asyncio.sleep(0)
        assert all(isinstance(answer, dict) for answer in await world.finish())
    in_use = {id(endpoint.upstream) for endpoint in world.balancer.endpoints}
    assert all(server.closed == (id(server) not in in_use) for server in world.servers)
    assert all(endpoint.state(world.now) == 0 for endpoint in world.balancer.endpoints)
    await world.balancer.close()
    assert all(server.closed for server in world.servers)


@settings(deadline=None)
@given(st.lists(st.sampled_from(FATES[1:]), min_size=1, max_size=300), st.integers(2, 4))
def test_when_everything_fails_attempts_stay_within_the_budget(fates: list[GatewayError], num_servers: int) -> None:
    async def scenario() -> None:
        world = World()
        world.names = ADDRESSES[:num_servers]
        await world.index()
        for fate in fates:
            world.ask()
            while not world.asks[-1].done():
                world.end(0, fate)
                await asyncio.sleep(0)
        ended = await asyncio.gather(*world.asks, return_exceptions=True)
        assert all(isinstance(answer, GatewayError) for answer in ended)
        assert world.attempts * 10 <= len(fates) * 11
        await world.balancer.close()

    asyncio.run(scenario())
