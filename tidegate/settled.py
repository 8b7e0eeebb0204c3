"""`python -m tidegate.settled`: whether a Triton has loaded what its repository asks for. A start-up probe's command.

Without it a rolling update would take old pods away while the new ones still load. A version that can't be loaded must
not keep a pod that was moved to another node out of service for ever: after `--patience` seconds, counted from the
start of the container's first process, what is loaded is what there is.

With `--wait` it is an init container's command: it waits until the repository can be read, for a Triton that is started
without one stays useless, and is killed for it again and again.

Exit codes: 0 settled, 1 not yet, 2 wrong arguments.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT_S = 5.0
_POLL_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Look once, or wait; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tidegate.settled", description=__doc__)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--address", default="127.0.0.1:8001", help="host:port of Triton's gRPC endpoint")
    parser.add_argument("--patience", type=float, default=300.0, help="seconds after which what is loaded will do")
    parser.add_argument("--wait", type=float, help="seconds to wait for the repository, without asking any Triton")
    options = parser.parse_args(arguments)
    if options.wait is not None:
        return _waited(options.repository, options.wait)
    reason = unsettled(options.repository, options.address)
    if reason is None or age_s() > options.patience:
        return 0
    sys.stderr.write(f"{reason}\n")  # kubelet puts it into the pod's events
    return 1


def unsettled(root: Path, address: str) -> str | None:
    """Why the pod isn't to be asked yet, and what to do where someone must; None when it may be."""
    from contract import Repository
    from serving.control import Control
    from serving.error import TritonUnreachable

    if (reason := unreadable(root)) is not None:
        return reason
    try:
        with Control(address, timeout_s=_TIMEOUT_S) as triton:
            serving = triton.serving()
    except TritonUnreachable as exc:
        return str(exc)
    waiting = [name for name in Repository(root).models() if not serving.get(name)]
    return f"not loaded yet: {', '.join(waiting)}" if waiting else None


def unreadable(root: Path) -> str | None:
    """Why a repository can't be read, and what to do; None when it can."""
    try:
        next(root.iterdir(), None)
    except FileNotFoundError:
        return f"there is no {root} on the volume: publish a version, or copy one there with `tidegate sync`"
    except OSError as exc:
        return (
            f"{root} can't be read by user {os.getuid()} ({exc.strerror}): let its group {os.getgid()} read the volume"
        )
    return None


def age_s(pid: int = 1) -> float:
    """Seconds since a process was started. Source: proc_pid_stat(5), field 22."""
    started = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def _waited(root: Path, wait_s: float) -> int:
    deadline, said = time.monotonic() + wait_s, ""
    while (reason := unreadable(root)) is not None:
        if reason != said:
            sys.stderr.write(f"{reason}\n")
        if time.monotonic() >= deadline:
            return 1
        said = reason
        time.sleep(_POLL_S)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # process 1 of a container isn't ended by the default
    sys.exit(main())
