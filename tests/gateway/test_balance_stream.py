"""Streams stay with the server that was chosen for their first request."""

from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import pytest
from tritonclient.grpc import service_pb2 as pb

from gateway.error import DeadlineExceeded, UpstreamUnavailable
from tests.gateway.cluster import LATE, UNSENT, Cluster, Server


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
