"""Several gateway processes on one port: both answer, one that dies is started again, SIGTERM ends them all."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract import Repository
from tests.port import free_ports

pytestmark = pytest.mark.timeout(120)


def get(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=5, trust_env=False)
    except httpx.HTTPError:
        return None


def until(holds: Callable[[], Any], process: subprocess.Popen[bytes], log: Path) -> Any:
    deadline, pause = time.monotonic() + 60, threading.Event()
    while True:
        if answer := holds():
            return answer
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        pause.wait(0.05)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_two_processes_share_the_port_and_outlive_one_anothers_death(
    tiny_repository: Repository, tmp_path: Path
) -> None:
    http, grpc, triton, metrics = free_ports(4)
    keys = tmp_path / "api.keys"
    keys.write_text(good := f"team-a:{'ab' * 32}\n")
    environment = os.environ | {
        "TIDEGATE_PROCESSES": "2",
        "TIDEGATE_REPOSITORY": str(tiny_repository.root),
        "TIDEGATE_TRITON": f"127.0.0.1:{triton}",  # nobody is there: live doesn't need it
        "TIDEGATE_HTTP_PORT": str(http),
        "TIDEGATE_GRPC_PORT": str(grpc),
        "TIDEGATE_METRICS_PORT": str(metrics),
        "TIDEGATE_API_KEYS": str(keys),
    }
    exporter = "http://127.0.0.1"
    url, log = f"http://127.0.0.1:{http}/health/live", tmp_path / "gateway.log"
    with (
        log.open("wb") as file,
        subprocess.Popen([sys.executable, "-m", "gateway"], env=environment, stderr=file) as it,
    ):
        try:
            until(lambda: get(f"{exporter}:{metrics}") and get(f"{exporter}:{metrics + 1}"), it, log)
            until(lambda: get(url), it, log)
            workers = children_of(it.pid)
            assert len(workers) == 2
            keys.write_text("broken")
            os.kill(workers[0], signal.SIGKILL)
            until(lambda: "ended with 2; starting it again" in log.read_text(), it, log)  # it can't read the keys
            assert workers[1] in children_of(it.pid)
            assert until(lambda: get(url), it, log).status_code == 200  # by the other one, which has read them
            keys.write_text(good)
            until(lambda: len(children_of(it.pid)) == 2 and workers[0] not in children_of(it.pid), it, log)
            until(lambda: get(f"{exporter}:{metrics}") and get(f"{exporter}:{metrics + 1}"), it, log)
            for _ in range(20):  # connections of their own, spread over both
                answer = until(lambda: get(url), it, log)
                assert answer.status_code == 200
            it.send_signal(signal.SIGTERM)
            assert it.wait(30) == 0, log.read_text()
        finally:
            it.kill()
    assert get(url) is None


@pytest.mark.parametrize(("name", "before"), [("HTTP", 0), ("METRICS", 1)])
def test_a_port_that_somebody_has_is_said_in_one_sentence(name: str, before: int, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = os.environ | {
            "TIDEGATE_PROCESSES": "2",
            "TIDEGATE_HTTP_PORT": "0",
            "TIDEGATE_GRPC_PORT": "0",
            f"TIDEGATE_{name}_PORT": str(port - before),
        }
        command = [sys.executable, "-m", "gateway"]
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr
