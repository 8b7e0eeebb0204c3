import os
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, start_http_server

from bench.case import metric_sum
from bench.error import LoadError, ServerError
from bench.load import Figures, Shape
from bench.machine import resident_mib, this_machine
from bench.server import Server

SLEEP = "import time; time.sleep(60)"


class Ready:
    """A kind that is answered at once."""

    id = "mosec"

    def check(self) -> None:
        pass

    def load(self, shape: Shape, duration_s: int) -> Figures:
        raise NotImplementedError


class Deaf(Ready):
    def check(self) -> None:
        raise LoadError("nobody there")


def server(tmp_path: Path, code: str, *, suspend: bool = False) -> Server:
    return Server(
        name="a server", command=[sys.executable, "-c", code], environment={}, log=tmp_path / "log", suspend=suspend
    )


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for_state(pid: int, wanted: str) -> None:
    os.waitid(os.P_PID, pid, {"T": os.WSTOPPED, "S": os.WCONTINUED}[wanted] | os.WNOWAIT)


def test_a_suspended_server_runs_only_while_it_is_awake(tmp_path: Path) -> None:
    one = server(tmp_path, SLEEP, suspend=True)
    one.start(Ready())
    try:
        wait_for_state(one.pid, "T")
        with one.awake():
            assert state(one.pid) in "RSD"
        wait_for_state(one.pid, "T")
        assert state(one.pid) == "T"
    finally:
        one.stop()
    assert not Path(f"/proc/{one.pid}").exists()


def test_memory_is_that_of_the_whole_tree_and_needs_a_process(tmp_path: Path) -> None:
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"
    one = server(tmp_path, child)
    one.start(Ready())
    try:
        assert all(mib > 0 for mib in resident_mib(one.pid))
    finally:
        one.stop()
    with pytest.raises(ServerError, match="has ended"):
        resident_mib(one.pid)


def test_a_server_that_ends_says_its_last_words(tmp_path: Path) -> None:
    one = server(tmp_path, "import sys; sys.exit('no such model')")
    with pytest.raises(ServerError, match="a server ended with code 1: no such model"):
        one.start(Deaf())


def test_what_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    server(tmp_path, SLEEP).stop()


def test_series_of_a_metric_are_added_up() -> None:
    registry = CollectorRegistry()
    counter = Counter("a", "", ("model", "code"), registry=registry)
    for model, num in (("tiny", 2), ("tiny", 3), ("photo", 5)):
        counter.labels(model, str(num)).inc(num)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        sums = metric_sum(url, "a_total"), metric_sum(url, "a_total", 'model="tiny"'), metric_sum(url, "b_total")
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
    assert sums == (10, 5, 0)


def test_counters_that_can_t_be_read_are_an_error_of_ours() -> None:
    with pytest.raises(LoadError, match="counters can't be read"):
        metric_sum("http://127.0.0.1:1/metrics", "a_total")


def test_the_machine_is_known() -> None:
    machine = this_machine()
    assert machine.num_cores >= 1
    assert machine.processor != "unknown"
    assert {"wrk", "h2load", "Python", "tidegate"} <= set(machine.versions)
