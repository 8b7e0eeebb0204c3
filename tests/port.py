"""Ports for servers that must be told theirs."""

import socket


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that nobody listens on: all held at once, so that they differ, and let go."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
