"""The real Triton reads large tensors from shared memory; it restarts, and a gateway dies."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tritonclient.grpc import InferenceServerClient

from gateway.error import UpstreamError
from gateway.region import FOLDER, PREFIX, remove_leftovers
from gateway.sharing import Sharing
from gateway.upstream import LARGE_BYTES, Batch, TritonUpstream
from tests.integration.triton import TIMEOUT_S, Serving, make_model

pytestmark = pytest.mark.integration

SPEC = (TensorProto.UINT8, ["n", "m"])
SAME = make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": SPEC}, {"y": SPEC})
CONFIG = """max_batch_size: 64
input [ { name: "x" data_type: TYPE_UINT8 dims: [-1] } ]
output [ { name: "y" data_type: TYPE_UINT8 dims: [-1] } ]
dynamic_batching { }
"""
DIES = f"""
import asyncio, os, signal, sys
import numpy as np
from functools import partial
from gateway.sharing import Sharing
from gateway.upstream import Batch, TritonUpstream
async def main():
    upstream = TritonUpstream(sys.argv[1], partial(Sharing, size_bytes={2 * LARGE_BYTES}))
    for _ in range(50):
        await upstream.infer(Batch("same", "", [{{"x": np.zeros((1, {LARGE_BYTES}), np.uint8)}}]), {TIMEOUT_S})
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


class Shared:
    """A gateway's upstream, and Triton's own account of the memory it shares."""

    def __init__(self, serving: Serving) -> None:
        self.address = f"127.0.0.1:{serving.ports.grpc}"
        self.upstream = TritonUpstream(self.address, partial(Sharing, size_bytes=8 * 1024 * 1024))
        self.random = np.random.default_rng(0)

    def images(self, num: int, size: int = LARGE_BYTES) -> NDArray[np.uint8]:
        return self.random.integers(0, 256, (num, size), np.uint8)

    async def ask(self, *parts: NDArray[np.uint8]) -> None:
        answer = await self.upstream.infer(Batch("same", "", [{"x": part} for part in parts]), TIMEOUT_S)
        np.testing.assert_array_equal(answer["y"], np.concatenate(parts))

    def regions(self) -> set[str]:
        with InferenceServerClient(self.address) as client:
            return {name for name in client.get_system_shared_memory_status().regions if name.startswith(PREFIX)}

    async def until_shared(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not self.regions():
                await self.ask(self.images(1))


@pytest.fixture
async def shared(serving: Serving) -> AsyncIterator[Shared]:
    assert serving.load("same", SAME, CONFIG).healthy
    one = Shared(serving)
    yield one
    names = one.regions()
    await one.upstream.close()
    assert one.regions() == set()
    assert not any((FOLDER / name).exists() for name in names)


async def test_batches_of_all_sizes_come_back_as_they_went(shared: Shared) -> None:
    await shared.until_shared()
    for num_parts, rows, size in ((1, 1, LARGE_BYTES), (16, 1, LARGE_BYTES), (3, 5, 10_000), (1, 64, 100_000)):
        await shared.ask(*[shared.images(rows, size) for _ in range(num_parts)])
    await asyncio.gather(*(shared.ask(shared.images(8), shared.images(2)) for _ in range(30)))  # more than fit
    given_up = [asyncio.create_task(shared.ask(shared.images(4))) for _ in range(10)]
    await asyncio.sleep(0)
    for ask in given_up:
        ask.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    await asyncio.gather(*(shared.ask(shared.images(8)) for _ in range(10)))


async def test_a_gateway_that_died_leaves_nothing_behind(shared: Shared) -> None:
    ended = await asyncio.to_thread(
        partial(subprocess.run, [sys.executable, "-c", DIES, shared.address], timeout=60, check=False)
    )
    assert ended.returncode == -signal.SIGKILL
    (dead,) = shared.regions()
    assert (FOLDER / dead).exists()
    remove_leftovers()
    async with asyncio.timeout(TIMEOUT_S):
        while dead in shared.regions():
            await shared.ask(shared.images(1))


async def test_triton_is_started_anew_and_no_answer_is_wrong(serving: Serving, shared: Shared) -> None:
    await shared.until_shared()
    assert serving.launcher.pid is not None
    os.kill(serving.launcher.pid, signal.SIGKILL)
    serving.launcher.stop()
    with pytest.raises(UpstreamError):
        await shared.ask(shared.images(4))
    serving.launcher.start()  # not in another thread: it would end with that
    serving.loader.reconcile()
    async with asyncio.timeout(TIMEOUT_S):
        while not shared.regions():
            with suppress(UpstreamError):  # it waits a moment before it connects again
                await shared.ask(shared.images(4))
    await asyncio.gather(*(shared.ask(shared.images(4)) for _ in range(20)))
