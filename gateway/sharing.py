"""Large tensors for a Triton on this host: they are put into memory that it reads too, and only named in the request.

Nothing waits for that: until Triton has taken the region in, when the region is full, and after a restart of Triton,
which has forgotten it then, tensors travel in messages as ever. A Triton that can't see the region isn't asked again.

Triton may read a slice until it has answered. Of a call that was given up or lost it isn't told here whether Triton
is still at work on it: such a slice rests, for longer than a model takes, before it is used again. Answers aren't
shared: a model that nobody waits for any more would write into what another one's answer is read from.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md
"""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from gateway.http2.client import CallError, GrpcChannel
from gateway.region import FOLDER, PREFIX, Region, Slice

log = logging.getLogger(__name__)

REST_S = 60.0

_SERVICE = "/inference.GRPCInferenceService/SystemSharedMemory"
_TIMEOUT_S = 2.0
_ANSWERS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}  # that only Triton gives, when it is done
_PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}


class Sharing:
    """What the Triton at `address` shares with this process: a region of `size_bytes`, made when it is needed."""

    def __init__(
        self,
        address: str,
        channel: GrpcChannel,
        *,
        size_bytes: int,
        folder: Path = FOLDER,
        rest_s: float = REST_S,
    ) -> None:
        self._address = address
        self._channel = channel
        self._size_bytes = size_bytes
        self._folder = folder
        self._rest_s = rest_s
        self._region: Region | None = None
        self._known = False  # to Triton
        self._useless = False
        self._telling: asyncio.Task[None] | None = None
        self._closed = False

    def lend(self, size: int) -> "Loan | None":
        """Room for that many bytes; None when there is none now."""
        if self._known and self._region is not None:
            lent = self._region.lend(size)
            return None if lent is None else Loan(self, lent)
        if self._telling is None and not self._useless and not self._closed:
            self._telling = asyncio.get_running_loop().create_task(self._tell())
        return None

    def forgotten(self) -> None:
        """Triton has been started anew."""
        self._known = False

    def take_back(self, lent: Slice) -> None:
        """Triton is done with a slice."""
        if self._region is not None:
            self._region.take_back(lent)

    def let_rest(self, lent: Slice) -> None:
        """Triton may not be done with a slice."""
        asyncio.get_running_loop().call_later(self._rest_s, self.take_back, lent)

    async def close(self) -> None:
        """Have Triton forget the region, and remove it."""
        self._closed = True
        if self._telling is not None:
            await asyncio.wait([self._telling])  # it has its deadline
        region, self._region = self._region, None
        if region is not None:
            if self._known:
                with suppress(CallError):
                    await self._forget(region.name)
            region.close()

    async def _tell(self) -> None:
        """Make the region, and have Triton take it in."""
        try:
            if self._region is None:
                self._region = await asyncio.to_thread(Region, self._size_bytes, self._folder)
            await self._register(self._region)
            with suppress(CallError):
                await self._forget_the_dead()
        except CallError as exc:
            if exc.code not in _PASSING:
                self._give_up(exc.details)
        except OSError as exc:
            self._give_up(str(exc))
        finally:
            self._telling = None

    async def _register(self, region: Region) -> None:
        name, size = region.name, region.size_bytes
        request = pb.SystemSharedMemoryRegisterRequest(name=name, key=f"/{name}", byte_size=size)
        try:
            await self._ask("Register", request)
        except CallError as exc:
            if exc.code is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        self._known = True
        log.info("large tensors go to inference server %s by %d bytes of shared memory", self._address, size)

    async def _forget_the_dead(self) -> None:
        """Have Triton let go of regions whose gateways died: it would keep their memory."""
        answer = await self._ask("Status", pb.SystemSharedMemoryStatusRequest())
        for name in pb.SystemSharedMemoryStatusResponse.FromString(answer).regions:
            if name.startswith(PREFIX) and not (self._folder / name).exists():
                await self._forget(name)

    async def _forget(self, name: str) -> None:
        await self._ask("Unregister", pb.SystemSharedMemoryUnregisterRequest(name=name))

    async def _ask(self, method: str, request: Any) -> bytes:
        return await self._channel.unary(_SERVICE + method, request.SerializeToString(), _TIMEOUT_S)

    def _give_up(self, reason: str) -> None:
        self._useless = True
        log.info("inference server %s shares no memory, tensors go to it in messages: %s", self._address, reason)


class Loan:
    """A slice for one call, which is made within it."""

    __slots__ = ("_lent", "_sharing", "forgotten")

    def __init__(self, sharing: Sharing, lent: Slice) -> None:
        self._sharing = sharing
        self._lent = lent
        self.forgotten = False  # whether the call failed because Triton doesn't know the region

    def __enter__(self) -> Slice:
        return self._lent

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._sharing.take_back(self._lent)
        elif isinstance(error, CallError) and (error.unsent or error.code in _ANSWERS):
            self._sharing.take_back(self._lent)
            if error.code is grpc.StatusCode.NOT_FOUND and self._lent.region in error.details:
                self.forgotten = True
                self._sharing.forgotten()
        else:
            self._sharing.let_rest(self._lent)
