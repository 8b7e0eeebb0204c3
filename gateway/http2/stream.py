"""One stream of a connection: its windows, the messages that come in, and waiting for room to send.

The peer may send a window's worth without asking. A message that is longer gets the rest as a loan, when someone waits
for it; loans are bounded, for all connections of a server together, and given in turn. So a server holds at most a
window for each stream and the sum of the loans, and the message that has a loan can always end.
"""

import asyncio
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from gateway.http2.frame import MAX_WINDOW, ErrorCode
from gateway.http2.message import PREFIX, Message, MessageError, MessageReader, check_size, wire_bytes

if TYPE_CHECKING:
    from gateway.http2.connection import Connection


class WriteStalled(Exception):
    """The peer has taken nothing for too long."""


class Credit:
    """What a server lends its streams: at most `limit_bytes`, first come, first served."""

    __slots__ = ("_lent", "_limit_bytes", "_waiting")

    def __init__(self, limit_bytes: int = sys.maxsize) -> None:
        self._limit_bytes = limit_bytes
        self._lent = 0
        self._waiting: OrderedDict[Stream, int] = OrderedDict()

    def lend(self, stream: "Stream", size: int) -> None:
        """Let a stream's peer send `size` bytes more, now or when it is its turn."""
        self._waiting[stream] = size
        self._serve()

    def withdraw(self, stream: "Stream") -> None:
        """A stream needs no loan any more."""
        if self._waiting.pop(stream, None) is not None:
            self._serve()

    def repay(self, size: int) -> None:
        """Take back what a stream was lent."""
        self._lent -= size
        self._serve()

    def _serve(self) -> None:
        while self._waiting:
            stream, size = next(iter(self._waiting.items()))
            if self._lent + size > self._limit_bytes:
                return
            del self._waiting[stream]  # before anything is sent: a connection that ends by it repays what it has
            self._lent += size
            stream.take_loan(size)


class Stream:
    """A stream that is open. Whoever extends it says what a message, the peer's end and a reset mean."""

    __slots__ = (
        "_asked",
        "_buffered",
        "_loan",
        "_reader",
        "_room",
        "closed",
        "conn",
        "ended",
        "id",
        "recv_window",
        "send_window",
    )

    def __init__(self, conn: "Connection[Any]", stream_id: int) -> None:
        self.conn = conn
        self.id = stream_id
        self.send_window = conn.peer_window
        self.recv_window = conn.window
        self.ended = False  # the peer has sent all it will
        self.closed = False  # nothing that comes or goes matters any more
        self._buffered = 0
        self._asked = False
        self._loan = 0
        self._reader: MessageReader | None = None
        self._room: asyncio.Future[None] | None = None

    def message_received(self, message: Message) -> None:
        """A whole message has come."""
        raise NotImplementedError

    def end_received(self) -> None:
        """The peer has sent all it will, without an error."""
        raise NotImplementedError

    def error_received(self, error: MessageError) -> None:
        """What the peer sends is no message."""
        raise NotImplementedError

    def reset_received(self, code: int) -> None:
        """The peer has given the stream up; it is closed already."""
        raise NotImplementedError

    def connection_lost(self, reason: str, *, unsent: bool) -> None:
        """The connection ends; the stream is closed already. `unsent`: the peer surely hasn't looked at it."""
        raise NotImplementedError

    def awaits_message(self) -> bool:
        """Whether the message that comes in now is the next to be used."""
        raise NotImplementedError

    def rest_awaited(self) -> None:
        """Someone waits for the rest of a message that has begun to come."""

    def data_received(self, data: bytes, start: int, stop: int) -> None:
        """Take `data[start:stop]` of the stream's bytes."""
        size = stop - start - PREFIX.size
        try:
            if self._reader is None:
                if size >= 0 and PREFIX.unpack_from(data, start) == (0, size):
                    check_size(size, self.conn.max_message_bytes)
                    self._buffered += stop - start
                    self.message_received(data[start + PREFIX.size : stop])
                    return
                self._reader = MessageReader(self.conn.max_message_bytes)
            self._buffered += stop - start
            for message in self._reader.feed(data, start, stop):
                self.message_received(message)
        except MessageError as exc:
            self.error_received(exc)
        else:
            self.ask_for_rest()

    def message_taken(self, message: Message) -> None:
        """A message is in use: give its room back to the peer."""
        if self._asked:
            self._settle()
        self._buffered -= wire_bytes(message)
        room = self.conn.window - self.recv_window - self._buffered
        if room >= self.conn.window // 2 and not self.ended:
            self.grant(room)

    def ask_for_rest(self) -> None:
        """Ask for a loan when the message that is waited for is longer than what the peer may send."""
        if self._reader is None or self._asked or self.ended or self.closed or not self.awaits_message():
            return
        if not self._reader.idle:
            self.rest_awaited()
        if (size := self._reader.missing - self.recv_window) > 0:
            self._asked = True
            self.conn.credit.lend(self, size)

    def take_loan(self, size: int) -> None:
        """Pass a loan on to the peer."""
        self._loan = size
        self.grant(size)

    def grant(self, size: int) -> None:
        """Let the peer send more."""
        self.recv_window += size
        self.conn.send_window_update(self.id, size)

    def widen(self, size: int) -> bool:
        """The peer lets us send more, or less; False when that is more than there can be."""
        self.send_window += size
        self.wake()
        return self.send_window <= MAX_WINDOW

    async def wait_for_room(self) -> None:
        """Wait until there may be room to send; raises WriteStalled."""
        self._room = self.conn.loop.create_future()
        self.conn.blocked.add(self)
        try:
            async with asyncio.timeout(self.conn.write_timeout_s):
                await self._room
        except TimeoutError:
            raise WriteStalled(f"nothing could be sent for {self.conn.write_timeout_s} s") from None
        finally:
            self.conn.blocked.discard(self)
            self._room = None

    def wake(self) -> None:
        """There may be room to send, or no use in waiting for it."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def close(self) -> bool:
        """Forget the stream; False when it was closed already."""
        if self.closed:
            return False
        self.closed = True
        if self._asked:
            self._settle()
        self._reader = None
        self.wake()
        self.conn.forget(self.id)
        return True

    def reset(self, code: ErrorCode) -> None:
        """Give the stream up and tell the peer."""
        if self.close():
            self.conn.send_reset(self.id, code)

    def _settle(self) -> None:
        """Ask for no loan any more, and pay back what was lent."""
        loan, self._loan, self._asked = self._loan, 0, False
        if loan:
            self.conn.credit.repay(loan)
        else:
            self.conn.credit.withdraw(self)
