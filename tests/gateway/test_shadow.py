"""Copies of requests: compared, bounded, never in the way, and gone when the gateway closes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from contract import InputError
from gateway.error import UpstreamFailed
from gateway.route import Choice, RouteTable
from gateway.shadow import MAX_EXAMPLES, Answer, Shadow

ROUTES = """
routes:
  - name: digits
    targets: [{model: digits, version: 3}]
    shadow: {model: digits, version: 4, fraction: 1, max_inflight: 2, deadline_ms: 60000}
"""


class Copies:
    """A shadow over one route, and what a test needs to offer copies and to look at."""

    def __init__(self, routes: str = ROUTES) -> None:
        self.registry = CollectorRegistry()
        self.shadow = Shadow(self.registry)
        self.table = RouteTable.parse(routes)
        self.shadow.prepare(self.table)

    @property
    def choice(self) -> Choice:
        choice = self.table.choose("digits", None, dict, ready=lambda _: True, random=lambda: 0.0)
        assert choice is not None
        return choice

    def offer(self, shadow: Any, primary: Any = None, request_id: str = "") -> None:
        """Offer a copy whose shadow answers with, or raises, `shadow`; or waits for it, if it is an event."""

        async def ask() -> Answer:
            if isinstance(shadow, Exception):
                raise shadow
            if isinstance(shadow, asyncio.Event):
                await shadow.wait()
                return answer(0.0)
            assert isinstance(shadow, Answer)
            return shadow

        self.shadow.offer(self.choice, primary or answer(0.0), ask, request_id=request_id)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(
            f"gateway_shadow_{name}", {"route": "digits", "target": "digits/4", **labels}
        )

    def results(self) -> dict[str, int]:
        return {name: count for name, count in (self.shadow.counts("digits") or {}).items() if count}


def answer(value: float, size: int = 3, first: int | None = None) -> Answer:
    return Answer({"y": np.full((1, size), value, np.float32)}, None if first is None else np.eye(3)[[first]])


async def settle() -> None:
    """Until every other task has ended, or waits for something."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def copies() -> AsyncIterator[Copies]:
    copies = Copies()
    yield copies
    await copies.shadow.close()


async def test_every_series_exists_before_the_first_copy(copies: Copies) -> None:
    for result in ("agreed", "disagreed", "failed", "dropped"):
        assert copies.value("requests_total", result=result) == 0
    for result in ("same", "different"):
        assert copies.value("top1_total", result=result) == 0
    assert copies.value("max_error_count") == copies.value("duration_seconds_count") == 0


async def test_answers_are_compared_and_counted(copies: Copies) -> None:
    copies.offer(answer(0.0, first=1), answer(0.0, first=1))
    await settle()
    copies.offer(answer(0.5, first=2), answer(0.0, first=1), request_id="r-1")
    await settle()
    assert copies.results() == {"agreed": 1, "disagreed": 1, "top1_same": 1, "top1_different": 1}
    assert copies.value("max_error_sum") == 0.5
    assert copies.value("duration_seconds_count") == 2
    (example,) = copies.shadow.counter_examples("digits")
    assert example["request_id"] == "r-1"
    assert example["target"] == "digits/4"
    assert example["top1"] == {"same": 0, "different": 1}
    assert example["differences"][0]["worst"] == {"index": [0, 0], "primary": 0.0, "shadow": 0.5}


async def test_an_offer_returns_before_the_shadow_is_asked(copies: Copies) -> None:
    copies.offer(answer(0.0))
    assert copies.results() == {}


async def test_beyond_the_limit_copies_are_dropped(copies: Copies) -> None:
    gate = asyncio.Event()
    for _ in range(5):
        copies.offer(gate)
    await settle()
    assert copies.results() == {"dropped": 3}
    gate.set()
    await settle()
    assert copies.results() == {"dropped": 3, "agreed": 2}
    copies.offer(answer(0.0))
    await settle()
    assert copies.results()["agreed"] == 3


@pytest.mark.parametrize("error", [UpstreamFailed("no"), InputError("no"), TimeoutError(), ZeroDivisionError("a bug")])
async def test_a_shadow_that_fails_is_counted(
    copies: Copies, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    copies.offer(error)
    await settle()
    assert copies.results() == {"failed": 1}
    assert ("a bug" in caplog.text) is isinstance(error, ZeroDivisionError)


async def test_a_shadow_that_never_answers_has_a_deadline() -> None:
    copies = Copies(ROUTES.replace("60000", "1"))
    copies.offer(asyncio.Event())
    async with asyncio.timeout(10):
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert copies.results() == {"failed": 1}


async def test_large_answers_are_compared_off_the_loop(copies: Copies) -> None:
    copies.offer(answer(1.0, size=100_000), answer(0.0, size=100_000))
    async with asyncio.timeout(10):
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert copies.results() == {"disagreed": 1}


async def test_closing_cancels_what_is_in_flight(copies: Copies) -> None:
    copies.offer(asyncio.Event())
    await settle()
    copies.offer(asyncio.Event())  # not even begun
    await copies.shadow.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert copies.results() == {}


async def test_the_last_examples_are_kept(copies: Copies) -> None:
    for number in range(MAX_EXAMPLES + 5):
        copies.offer(answer(1.0), request_id=str(number))
        await settle()
    examples = copies.shadow.counter_examples("digits")
    assert [example["request_id"] for example in examples] == [str(number) for number in range(24, 4, -1)]


async def test_counts_go_on_over_a_reload_and_a_route_that_went_is_forgotten(copies: Copies) -> None:
    old = copies.choice
    copies.offer(answer(1.0))
    await settle()
    copies.shadow.prepare(RouteTable.parse(ROUTES.replace("fraction: 1", "fraction: 0.5")))
    assert copies.results() == {"disagreed": 1}
    assert copies.shadow.counter_examples("digits")
    for routes in ("", ROUTES.replace("version: 4", "version: 5")):
        copies.shadow.prepare(RouteTable.parse(routes))
        copies.shadow.offer(old, answer(0.0), lambda: pytest.fail("its route went"))
        assert copies.results() == {}
        assert copies.shadow.counter_examples("digits") == []
    copies.shadow.prepare(copies.table)
    assert copies.results() == {"disagreed": 1}  # a counter never falls
