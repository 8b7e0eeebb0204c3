"""How a request ended, in HTTP and in gRPC: the one table that both protocols and the metrics read."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import grpc

from contract import InputError
from gateway.error import (
    BodyTooLarge,
    ClientGone,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    Unauthenticated,
    UnknownModel,
    UnsupportedMedia,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamUnavailable,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way for a request to end. `retry_after_s` is set where a later try may succeed."""

    status: int
    grpc_code: grpc.StatusCode
    retry_after_s: int | None = None


OK = Outcome(200, grpc.StatusCode.OK)
INTERNAL = Outcome(500, grpc.StatusCode.INTERNAL)
UNAUTHENTICATED = Outcome(401, grpc.StatusCode.UNAUTHENTICATED)

_TABLE: Mapping[type[BaseException], Outcome] = {
    InvalidRequest: Outcome(400, grpc.StatusCode.INVALID_ARGUMENT),
    InputError: Outcome(400, grpc.StatusCode.INVALID_ARGUMENT),
    UpstreamRefused: Outcome(400, grpc.StatusCode.INVALID_ARGUMENT),
    Unauthenticated: UNAUTHENTICATED,
    UnknownModel: Outcome(404, grpc.StatusCode.NOT_FOUND),
    BodyTooLarge: Outcome(413, grpc.StatusCode.RESOURCE_EXHAUSTED),
    UnsupportedMedia: Outcome(415, grpc.StatusCode.INVALID_ARGUMENT),
    Overloaded: Outcome(429, grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after_s=1),
    ClientGone: Outcome(499, grpc.StatusCode.CANCELLED),
    # How a protocol tells that the client went away: of a call, and of a stream that waits to give its next answer.
    asyncio.CancelledError: Outcome(499, grpc.StatusCode.CANCELLED),
    GeneratorExit: Outcome(499, grpc.StatusCode.CANCELLED),
    UpstreamFailed: Outcome(502, grpc.StatusCode.INTERNAL),
    UpstreamUnavailable: Outcome(503, grpc.StatusCode.UNAVAILABLE, retry_after_s=1),
    DeadlineExceeded: Outcome(504, grpc.StatusCode.DEADLINE_EXCEEDED),
}

MAX_MESSAGE_CHARACTERS = 500  # clients choose names that are quoted

# Of requests to a model; who isn't admitted is counted apart, before it is read for which model he asks.
STATUSES = tuple(sorted({one.status for one in (OK, INTERNAL, *_TABLE.values())} - {UNAUTHENTICATED.status}))


def outcome_of(error: BaseException) -> Outcome:
    """The outcome of an error; anything that isn't in the table is a fault of ours."""
    for kind in type(error).__mro__:
        if kind in _TABLE:
            return _TABLE[kind]
    return INTERNAL


def message_of(error: BaseException) -> str:
    """What the client is told: our own errors' sentence, bounded, and nothing of an unexpected one."""
    if outcome_of(error) is INTERNAL:
        return "internal error; the gateway's log has the details"
    return str(error)[:MAX_MESSAGE_CHARACTERS]
