"""Several gateway processes on one port: the kernel spreads connections over them, each has a metrics port of its own.

One Python process uses one core. There is nothing that they share but the port, so their counters add up in
Prometheus, and one that dies takes only its own connections along and is started again.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from gateway.setting import Settings

log = logging.getLogger(__name__)

_POLL_S = 0.1
_RESTART_S = 1.0
_WRONG_SETTINGS = 2  # the exit code of a gateway that can't start with what it was given


def supervise(settings: Settings) -> int:
    """Run `settings.processes` gateways until SIGTERM or SIGINT; returns the exit code.

    Raises OSError when a port is taken.
    """
    with contextlib.ExitStack() as stack:
        for port in (settings.http_port, settings.grpc_port):
            stack.enter_context(_reserved(settings.host, port))
        for number in range(settings.processes):  # a process that can't have its own would be started again for ever
            bound_socket(settings.host, settings.metrics_port + number, share=False).close()
        children = [_spawn(settings, number) for number in range(settings.processes)]
        stop = threading.Event()

        def end(*_: object) -> None:
            stop.set()
            for child in children:
                child.send_signal(signal.SIGTERM)  # told twice, they don't wait for what is in flight

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        wrong, restarted = 0, set[int]()
        while not stop.wait(_POLL_S):
            for i, child in enumerate(children):
                code = child.poll()
                if code == _WRONG_SETTINGS and i not in restarted:  # and will be the next time
                    wrong = code
                    end()
                elif code is not None:
                    log.error("gateway process %d ended with %d; starting it again", i, code)
                    restarted.add(i)  # if it can't read its files now, the others still go by what they have read
                    if not stop.wait(_RESTART_S):
                        children[i] = _spawn(settings, i)
        ended = _ended(children, settings.drain_timeout_s)
        return wrong or ended


def _ended(children: list[subprocess.Popen[bytes]], drain_timeout_s: float) -> int:
    deadline = time.monotonic() + 2 * drain_timeout_s + 5
    for child in children:
        try:
            child.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return max(0, *(child.returncode for child in children))  # ended by the signal itself is as told


def _spawn(settings: Settings, number: int) -> subprocess.Popen[bytes]:
    own = {
        "TIDEGATE_PROCESSES": "1",
        "TIDEGATE_SHARE_PORTS": "true",
        "TIDEGATE_METRICS_PORT": str(settings.metrics_port + number),
        # Fewer calls at once a process make the larger batches that one process would have made of all requests.
        "TIDEGATE_BUSY_POLL_US": "0",  # for whoever has one request at a time, one process is enough
        "TIDEGATE_UPSTREAM_CALLS": str(max(1, settings.upstream_calls // settings.processes)),
    }
    return subprocess.Popen([sys.executable, "-m", "gateway"], env={**os.environ, **own})


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[None]:
    """Hold a port, without listening, so that no other program gets it while a process of ours is away."""
    holder = bound_socket(host, port, share=False)  # fails when anyone has it
    holder.close()
    holder = bound_socket(host, port, share=True)
    try:
        yield
    finally:
        holder.close()


def bound_socket(host: str, port: int, *, share: bool) -> socket.socket:
    """A socket bound to an address, not listening; OSError, with the address in its text, when it can't be."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if share:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as exc:
        bound.close()
        raise OSError(f"can't listen on {host}:{port}: {exc.strerror}") from exc
    return bound
