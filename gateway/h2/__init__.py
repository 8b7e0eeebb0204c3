"""gRPC over HTTP/2 on asyncio protocols: what the hot path needs of it, and little more."""
