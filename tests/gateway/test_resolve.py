import asyncio
from collections.abc import Callable, Sequence

import pytest

from gateway.resolve import MAX_ENDPOINTS, Resolver, is_loopback, join_address, resolve_address, split_address


class Names:
    """A name server that answers what a test says, and a resolver that asks it."""

    def __init__(self, *addresses: str) -> None:
        self.now = 0.0
        self.answers: dict[str, Sequence[str] | Exception] = {}
        self.gate: Callable[[], asyncio.Future[None]] | None = None
        self.asked: list[str] = []
        self.changes: list[Sequence[str]] = []
        self.resolver = Resolver(addresses, self.resolve, clock=lambda: self.now, on_change=self.changes.append)

    async def resolve(self, address: str) -> Sequence[str]:
        self.asked.append(address)
        if self.gate is not None:
            await self.gate()
        answer = self.answers[address]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def look(self, older_than_s: float = 0) -> Sequence[str]:
        self.resolver.refresh(older_than_s)
        await self.resolver.wait(5)
        return self.changes[-1] if self.changes else ()


def test_only_an_address_can_be_this_host_s() -> None:
    assert all(map(is_loopback, ("127.0.0.1:1", "127.8.0.1:1", "[::1]:1")))
    assert not any(map(is_loopback, ("10.0.0.1:1", "[fe80::1%eth0]:1", "localhost:1", "triton:1")))


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("triton:8001", "triton", 8001), ("[::1]:1", "::1", 1), ("10.0.0.1:65535", "10.0.0.1", 65535)],
)
def test_an_address_is_split_and_joined(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)
    assert join_address(host, port) == address


@pytest.mark.parametrize(
    "address", ["", "triton", "triton:", ":8001", "triton:0", "triton:65536", "triton:x", "::1", "[]:1"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected an inference server's address"):
        Names(address)


def test_no_address_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Names()


async def test_a_literal_asks_no_name_server() -> None:
    assert await resolve_address("127.0.0.2:8001") == ["127.0.0.2:8001"]
    names = Names("127.0.0.2:8001", "[::1]:8001", "127.0.0.2:8001")
    assert await names.look() == ("127.0.0.2:8001", "[::1]:8001")
    assert names.asked == []


async def test_addresses_that_come_and_go_are_told_once() -> None:
    names = Names("triton:1", "10.0.0.9:1")
    names.answers["triton:1"] = ["10.0.0.1:1", "10.0.0.2:1"]
    assert await names.look() == ("10.0.0.9:1", "10.0.0.1:1", "10.0.0.2:1")
    names.answers["triton:1"] = ["10.0.0.2:1", "10.0.0.1:1", "10.0.0.1:1"]  # shuffled
    told = len(names.changes)
    await names.look()
    assert len(names.changes) == told
    names.answers["triton:1"] = ["10.0.0.3:1", "10.0.0.2:1"]
    assert await names.look() == ("10.0.0.9:1", "10.0.0.2:1", "10.0.0.3:1")


@pytest.mark.parametrize("answer", [[], OSError("no such name"), TimeoutError(), UnicodeError("label too long")])
async def test_a_look_up_that_fails_or_finds_nothing_changes_nothing(answer: Sequence[str] | Exception) -> None:
    names = Names("triton:1")
    names.answers["triton:1"] = ["10.0.0.1:1"]
    await names.look()
    names.answers["triton:1"] = answer
    await names.look()
    assert names.changes == [("10.0.0.1:1",)]


async def test_look_ups_are_as_rare_as_asked_and_never_two_of_a_name() -> None:
    names = Names("triton:1")
    names.answers["triton:1"] = ["10.0.0.1:1"]
    hung = asyncio.get_running_loop().create_future()
    names.gate = lambda: hung
    names.resolver.refresh(5)
    names.now = 4.9
    names.resolver.refresh(5)
    await asyncio.sleep(0)
    assert names.asked == ["triton:1"]
    names.now = 5
    names.resolver.refresh(5)
    await asyncio.sleep(0)
    assert names.asked == ["triton:1"]  # the first hangs
    hung.set_result(None)
    await names.resolver.wait(5)
    names.now = 10
    assert await names.look(5) == ("10.0.0.1:1",)
    assert names.asked == ["triton:1"] * 2


async def test_closing_gives_up_what_hangs() -> None:
    names = Names("triton:1")
    names.gate = asyncio.get_running_loop().create_future
    names.resolver.refresh(0)
    await names.resolver.wait(0)
    await names.resolver.close()
    assert names.changes == []


async def test_of_too_many_those_in_use_stay_in_use() -> None:
    names = Names("triton:1")
    many = [f"10.0.0.{i}:1" for i in range(100)]
    names.answers["triton:1"] = many
    first = await names.look()
    assert len(first) == MAX_ENDPOINTS
    names.answers["triton:1"] = many[::-1]
    assert await names.look() == first
    names.answers["triton:1"] = many[10:][::-1]
    later = await names.look()
    assert len(later) == MAX_ENDPOINTS
    assert set(first) & set(many[10:]) <= set(later)
