"""The errors that a request can end with. They know nothing of HTTP or gRPC: `gateway/outcome.py` maps them.

GatewayError
├── Unauthenticated      it came without a good key
├── InvalidRequest       what the client sent can't be read; contract.InputError says the same of tensors and images
├── UnknownModel         no such model, or no such version of it
├── BodyTooLarge         the body is longer than the gateway takes
├── UnsupportedMedia     a content type or encoding that the endpoint doesn't read
├── Overloaded           the gateway has as many requests in hand as it takes
├── ConfigurationError   the gateway can't start with what it was given
├── ClientGone           the client went away before its answer
├── DeadlineExceeded     the request's time is up
│   └── ExpiredInQueue       and it was never sent
└── UpstreamError        Triton didn't give an answer
    ├── UpstreamUnavailable   it can't be reached, or the model isn't ready there
    ├── UpstreamRefused       it says the request itself is wrong
    └── UpstreamFailed        the model failed, or answered what its contract doesn't allow
"""


class GatewayError(Exception):
    """Root of everything the gateway raises on purpose. The message is one sentence for the client."""


class ConfigurationError(GatewayError):
    """The gateway can't start with what it was given."""


class Unauthenticated(GatewayError):
    """The request came without a good key."""


class InvalidRequest(GatewayError):
    """The request can't be read."""


class UnknownModel(GatewayError):
    """There is no such model or version."""


class BodyTooLarge(GatewayError):
    """The body is longer than the gateway takes."""


class UnsupportedMedia(GatewayError):
    """The endpoint doesn't read this content type or encoding."""


class Overloaded(GatewayError):
    """The gateway has as many requests in hand as it takes."""


class ClientGone(GatewayError):
    """The client went away before its answer."""


class DeadlineExceeded(GatewayError):
    """The request's time is up."""


class ExpiredInQueue(DeadlineExceeded):
    """The request's time is up, and it was never sent."""


class UpstreamError(GatewayError):
    """Triton didn't give an answer."""


class UpstreamUnavailable(UpstreamError):
    """Triton can't be reached, or the model isn't ready there.

    `unsent`: the call surely wasn't begun there. `lost`: its connection ended before its answer came.
    """

    def __init__(self, message: str = "", *, unsent: bool = False, lost: bool = False) -> None:
        super().__init__(message)
        self.unsent = unsent
        self.lost = lost


class UpstreamRefused(UpstreamError):
    """Triton says the request itself is wrong."""


class UpstreamFailed(UpstreamError):
    """The model failed, or answered what its contract doesn't allow."""
