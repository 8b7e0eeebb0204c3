"""Run a program that ends when its parent does: `python leash.py <parent pid> <program> <arguments>`.

If the launcher is killed outright, nothing would stop Triton: it would keep its ports, and the next start would fail.
Linux ends it instead, with SIGTERM. The program takes this process's place, so its id is the one the launcher knows.

Source: prctl(2), PR_SET_PDEATHSIG; it survives execve(2).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the program."""
    parent, program = int(arguments[0]), arguments[1:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before we asked to be told
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
