"""A real Prometheus over counters of the past, as if it had scraped them; made by promtool, on the loopback only."""

import contextlib
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.drift.evaluator import Labels
from bench.error import BenchError
from monitoring.prometheus import command, find_binary

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_IMPORT_TIMEOUT_S = 120.0


def open_metrics(name: str, series: Mapping[Labels, NDArray[np.float64]], start_s: int, step_s: int) -> Iterator[str]:
    """Lines of one metric, a gauge to the parser, with the time of each value; NaN is a missing one."""
    yield f"# TYPE {name} gauge"
    for labels, values in series.items():
        where = name + "{" + ",".join(f'{label}="{value}"' for label, value in labels) + "}"
        for index in np.flatnonzero(~np.isnan(values)).tolist():
            yield f"{where} {float(values[index])!r} {start_s + index * step_s}"


@contextlib.contextmanager
def prometheus_of(lines: Iterable[str], folder: Path) -> Iterator[str]:
    """The address of a Prometheus that holds those lines and nothing else; raises BenchError."""
    text, data, config = folder / "past.om", folder / "data", folder / "prometheus.yml"
    text.write_text("\n".join([*lines, "# EOF"]) + "\n", encoding="utf-8")
    config.write_text("scrape_configs: []\n", encoding="utf-8")
    made = subprocess.run(
        [find_binary("promtool"), "tsdb", "create-blocks-from", "openmetrics", text, data],
        capture_output=True, text=True, timeout=_IMPORT_TIMEOUT_S, check=False,
    )  # fmt: skip
    if made.returncode:
        raise BenchError(f"promtool can't make blocks of the past: {made.stderr.strip()[-300:]}")
    with running_prometheus(config, data, folder / "prometheus.log") as url:
        yield url


@contextlib.contextmanager
def running_prometheus(config: Path, data: Path, log: Path) -> Iterator[str]:
    """The address of a ready Prometheus on the loopback; raises BenchError."""
    address = f"127.0.0.1:{_free_port()}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(find_binary("prometheus"), config, data, address), stdout=file, stderr=subprocess.STDOUT
        )
    try:
        _wait(f"http://{address}", process)
        yield f"http://{address}"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            direct.open(f"{url}/-/ready", timeout=1).close()
            return
        except (urllib.error.URLError, OSError) as exc:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"Prometheus at {url} isn't ready: {exc}") from exc
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
