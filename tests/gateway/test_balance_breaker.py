"""What is learnt of servers and models from how calls end."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.budget import RetryBudget
from gateway.error import DeadlineExceeded, GatewayError, UpstreamFailed, UpstreamRefused, UpstreamUnavailable
from gateway.upstream import Batch, IndexEntry
from tests.gateway.cluster import FAILED, LATE, LOST, UNSENT, Cluster, Server, X, settle


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


async def test_calls_lost_with_one_connection_are_one_failure() -> None:
    one = Cluster(a := Server("m/1"), budget=RetryBudget(calls_per_retry=1000))
    await one.index()
    a.errors["m"] = LOST
    for lost in range(1, 6):
        a.gate.clear()
        asks = [one.ask() for _ in range(50)]
        await settle()
        one.now += 0.01
        a.gate.set()
        await asyncio.gather(*asks, return_exceptions=True)
        assert one.metric("gateway_upstream_breaker_state", "a:1") == (2 if lost == 5 else 0)


async def test_a_loss_before_the_call_was_sent_says_nothing_of_the_models_there() -> None:
    one = Cluster(a := Server("m/1"), budget=RetryBudget(calls_per_retry=1000))
    await one.index()
    a.down = UpstreamUnavailable("going away", unsent=True, lost=True)
    await one.fail(UpstreamUnavailable)
    a.down = None
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
            await one.balancer.infer(Batch("m", "1", [X]), 0.1)
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


async def test_a_call_that_was_cancelled_is_judged_only_if_its_time_was_up() -> None:
    one = Cluster(a := Server("m/1"))
    await one.index()
    a.gate.clear()

    async def give_up(*, after_s: float) -> None:
        call = one.ask()  # with five seconds
        await settle()
        one.now += after_s
        call.cancel()
        await asyncio.wait([call])

    for _ in range(10):
        await give_up(after_s=4)
    assert one.metric("gateway_upstream_breaker_state", "a:1") == 0
    for _ in range(5):
        await give_up(after_s=6)
    assert one.metric("gateway_upstream_breaker_state", "a:1") == 2
