"""The gateway in front of the real Triton, watched by the real Prometheus."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

from monitoring.boardbook import board_texts
from monitoring.exporter import DELAY_S
from monitoring.fast_lane import STALE_S, TIMESTAMP
from monitoring.inventory import optional_metrics, used_metrics
from monitoring.promql import metric_names
from monitoring.question import bound, queries_of
from monitoring.rulebook import rule_groups
from tidegate.error import StackError
from tidegate.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PREDICT = "/v1/models/tiny/predict"
IMAGES = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (0, 250)])


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), level).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, stack_over: Any, make_version: Any) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    root = folder / "model_repository"
    make_version(root)
    make_version(root, name="broken")
    (root / "broken" / "1" / "model.onnx").write_bytes(b"no onnx")
    with stack_over(root, folder / "run", fast_lane=True) as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.url, timeout=10, trust_env=False) as client:
        yield client


def test_http_and_grpc_give_tritons_own_answer(stack: Stack, client: httpx.Client) -> None:
    tensor = triton.InferInput("image", IMAGES.shape, "UINT8")
    tensor.set_data_from_numpy(IMAGES)
    direct = triton.InferenceServerClient(f"127.0.0.1:{stack.ports.triton_grpc}")
    through = triton.InferenceServerClient(f"127.0.0.1:{stack.ports.grpc}")
    expected = direct.infer("tiny", [tensor]).as_numpy("logits")
    np.testing.assert_array_equal(through.infer("tiny", [tensor]).as_numpy("logits"), expected)
    direct.close()
    through.close()
    document = {"inputs": [{"name": "image", "shape": [2, 8, 8, 1], "datatype": "UINT8", "data": IMAGES.tolist()}]}
    answer = client.post("/v2/models/tiny/infer", json=document).json()
    np.testing.assert_allclose(answer["outputs"][0]["data"], expected.ravel(), rtol=1e-6)
    predictions = client.post(PREDICT, files=[("image", png(level)) for level in (0, 250)]).json()["predictions"]
    assert [p["label"] for p in predictions] == ["dark", "bright"]


def test_a_model_that_fails_is_named_and_the_others_serve(stack: Stack, client: httpx.Client) -> None:
    assert "broken/1/model.onnx" in (stack.state / "log" / "triton.log").read_text()
    broken = client.post("/v1/models/broken/predict", files={"image": png(1)})
    assert (broken.status_code, broken.json()["error"]) == (503, "model 'broken' is not ready")
    assert client.post(PREDICT, files={"image": png(1)}).status_code == 200


def test_every_metric_that_rules_and_panels_use_is_exported(
    stack: Stack, client: httpx.Client, wait_until: Callable[..., Any]
) -> None:
    client.post(PREDICT, files={"image": png(1)})
    ask = httpx.Client(base_url=stack.prometheus_url, timeout=10, trust_env=False)

    def missing() -> bool:
        names = set(ask.get("/api/v1/label/__name__/values").json()["data"])
        return used_metrics() <= names

    def jobs() -> set[str]:
        up = ask.get("/api/v1/query", params={"query": "up == 1"}).json()["data"]["result"]
        return {sample["metric"]["job"] for sample in up}

    with ask:
        wait_until("every used metric is in Prometheus", missing)
        wait_until("every job is up", lambda: jobs() == {"gateway", "triton", "drift"})


def test_the_fast_lane_reads_what_prometheus_has_and_is_scraped(stack: Stack, wait_until: Callable[..., Any]) -> None:
    """Evidence comes with the next ten minutes of the clock, which a test doesn't wait for."""
    ask = httpx.Client(base_url=stack.prometheus_url, timeout=10, trust_env=False)

    def behind_s() -> list[Any]:
        found = ask.get("/api/v1/query", params={"query": f"time() - {TIMESTAMP}"}).json()["data"]["result"]
        return [float(sample["value"][1]) for sample in found]

    with ask:
        (late,) = wait_until("the fast lane has read", behind_s)
    assert DELAY_S <= late < STALE_S
    assert "WARNING" not in (stack.state / "log" / "fast-lane.log").read_text()


def test_the_fast_lane_s_death_is_one_sentence(tmp_path: Path, stack_over: Any, make_version: Any) -> None:
    make_version(tmp_path / "model_repository")
    with stack_over(tmp_path / "model_repository", tmp_path / "run", fast_lane=True) as stack:
        os.kill(stack.pid("fast-lane"), signal.SIGKILL)
        with pytest.raises(StackError, match=r"fast-lane ended with code -9; the end of .*fast-lane\.log:"):
            stack.wait_for("nobody")


def test_every_board_shows_the_traffic(stack: Stack, client: httpx.Client, wait_until: Callable[..., Any]) -> None:
    """What is recorded at every scrape and isn't optional; drift and budgets need more time and samples than a test."""
    reads = {rule.record: metric_names(rule.expr) for group in rule_groups() for rule in group.rules}
    late = {rule.record for group in rule_groups() if group.interval_s for rule in group.rules}
    late |= optional_metrics() | {"ALERTS", "ALERTS_FOR_STATE"}
    while more := {record for record, names in reads.items() if names & late} - late:
        late |= more
    asked = {
        bound(expr, model="tiny", version="1", feature="brightness"): f"{name}: {where}"
        for name, text in board_texts().items()
        for where, expr in queries_of(text)
        if not metric_names(expr) & late and not where.startswith("annotation")
    }
    assert len(asked) > 40
    ask = httpx.Client(base_url=stack.prometheus_url, timeout=10, trust_env=False)

    def silent() -> list[str]:
        client.post(PREDICT, files={"image": png(1)})
        answers = ((what, ask.get("/api/v1/query", params={"query": expr}).json()) for expr, what in asked.items())
        return [what for what, answer in answers if not answer["data"]["result"]]

    with ask:
        try:
            wait_until("every query gives data", lambda: not silent(), 30)
        except AssertionError as exc:
            raise AssertionError(f"{exc}: {silent()}") from exc


def test_a_new_version_is_picked_up_without_a_restart(
    stack: Stack, client: httpx.Client, make_version: Any, wait_until: Callable[..., Any]
) -> None:
    """And while it loads beside the old one, not one request fails."""
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=stack.url, timeout=10, trust_env=False) as own:
            while not done.is_set() and len(statuses) < 20_000:
                statuses.append(own.post(PREDICT, files={"image": png(1)}).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        make_version(stack.repository, version=2)
        wait_until(
            "version 2 answers", lambda: client.post(PREDICT, files={"image": png(1)}).json().get("version") == "2"
        )
    finally:
        done.set()
        thread.join(30)
    assert set(statuses) == {200}
    assert client.post("/v1/models/tiny/versions/1/predict", files={"image": png(1)}).json()["version"] == "1"


def test_triton_killed_while_serving_comes_back_without_a_restart_of_the_gateway(
    stack: Stack, client: httpx.Client, wait_until: Callable[..., Any]
) -> None:
    gateway = stack.pid("gateway")
    children = Path(f"/proc/{stack.pid('triton')}/task/{stack.pid('triton')}/children")
    (server,) = [
        int(pid) for pid in children.read_text().split() if b"tritonserver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(server, signal.SIGKILL)
    during = wait_until(
        "a request fails", lambda: (a := client.post(PREDICT, files={"image": png(1)})).status_code != 200 and a
    )
    assert (during.status_code, during.headers["retry-after"]) == (503, "1")
    assert client.get("/health/live").status_code == 200
    wait_until("ready again", lambda: client.get("/health/ready").status_code == 200)
    wait_until("answers again", lambda: client.post(PREDICT, files={"image": png(250)}).status_code == 200)
    assert stack.pid("gateway") == gateway


def test_a_taken_port_is_one_sentence(stack: Stack, tmp_path: Path) -> None:
    command = ["-m", "tidegate", "up", f"--repository={stack.repository}", f"--state={tmp_path}"]
    command += [f"--http-port={stack.ports.http}"]
    ended = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"port {stack.ports.http} on 127.0.0.1 can't be had" in ended.stdout
