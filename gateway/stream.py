"""Streams: requests that a model answers as often as it likes, over gRPC and as server-sent events.

A model with a contract answers each request once, coalesced with everyone else's. One without may be decoupled: its
requests go on to Triton in a stream of their own, and its answers come back as they are made.

Source: Triton's decoupled models and its generate extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_generate.md
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from contract.triton import plain_reason
from gateway.call import Ask, Call
from gateway.catalog import Served
from gateway.dataplane import DataPlane
from gateway.error import DeadlineExceeded, UpstreamFailed
from gateway.hot import class_labels
from gateway.message import read_message, write_message
from gateway.outcome import message_of

MAX_PENDING = 64  # requests of one stream in hand; beyond it the client is not read
MAX_ANSWERS = 256  # answers that wait for a client that reads slowly

_END = object()


async def answer_stream(
    plane: DataPlane, requests: AsyncIterator[Any], ask_of: Callable[[Any], Ask]
) -> AsyncIterator[Any]:
    """Yield `ModelStreamInferResponse`s to `ModelInferRequest`s: an error ends its request, and not the stream.

    A request that can't be read ends the stream, once those before it are answered: raises what `requests` raises.
    """
    answers: asyncio.Queue[Any] = asyncio.Queue(MAX_ANSWERS)
    room = asyncio.Semaphore(MAX_PENDING)

    async def answer(request: Any) -> None:
        try:
            async for response in answers_of(plane, ask_of(request), lambda _: _given(request)):
                await answers.put(pb.ModelStreamInferResponse(infer_response=response))
        except Exception as exc:
            failed = pb.ModelStreamInferResponse(error_message=message_of(exc))
            failed.infer_response.id = request.id
            await answers.put(failed)
        finally:
            room.release()

    async def read() -> None:
        end: object = _END
        async with asyncio.TaskGroup() as group:
            try:
                async for request in requests:
                    await room.acquire()
                    group.create_task(answer(request))
            except Exception as exc:
                end = exc
        await answers.put(end)

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda task: None if task.cancelled() else task.exception())
    try:
        while (response := await answers.get()) is not _END:
            if isinstance(response, Exception):
                raise response
            yield response
    finally:
        reader.cancel()


async def answers_of(
    plane: DataPlane, ask: Ask, message: Callable[[Served], Awaitable[Any]]
) -> AsyncGenerator[Any, None]:
    """Yield the `ModelInferResponse`s to one request; raises what a single inference raises.

    `message` makes the `ModelInferRequest` for whoever was chosen to serve it.
    """
    with plane.call(ask) as call:
        served = call.served
        request = await message(served)
        asked = read_message(request)
        decoupled = served.contract is None and (await plane.config(served)).config.model_transaction_policy.decoupled
        if not decoupled:
            outputs = await plane.infer(call, asked)
            labels = class_labels(call.served.contract)
            response = write_message(call.served.name, call.served.version, asked, outputs, labels=labels)
            response.parameters["triton_final_response"].bool_param = True
            yield response
            return
        async with aclosing(_relay(plane, call, request)) as responses:
            async for response in responses:
                yield response


async def _given(request: Any) -> Any:
    return request


async def _relay(plane: DataPlane, call: Call, request: Any) -> AsyncGenerator[Any, None]:
    """Pass one request on to a decoupled model, and its answers back, until the model says that it was the last."""
    call.mark("admit")
    passed = pb.ModelInferRequest()
    passed.CopyFrom(request)
    passed.model_name, passed.model_version = call.served.name, call.served.version
    passed.parameters["triton_enable_empty_final_response"].bool_param = True
    told = "triton_enable_empty_final_response" in request.parameters
    ended = asyncio.Event()

    async def requests() -> AsyncIterator[Any]:
        yield passed
        await ended.wait()

    plane.metrics.series(call.served.name, call.served.version).attempts.inc()
    try:
        async with aclosing(plane.upstream.stream(requests(), call.deadline - time.monotonic())) as responses:  # type: ignore[type-var]
            async for response in responses:
                if response.error_message:
                    raise UpstreamFailed(f"the model failed: {plain_reason(response.error_message)}")
                answer = response.infer_response
                last = answer.parameters["triton_final_response"].bool_param
                if answer.outputs or told:
                    answer.id = request.id
                    yield answer
                if last:
                    return
    finally:
        ended.set()
        call.mark("upstream")
    raise DeadlineExceeded("the model's answers ended before it said which was the last")
