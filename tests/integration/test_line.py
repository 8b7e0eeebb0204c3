"""The whole line, as the README tells it: train on real images, publish, serve, ask, watch."""

import contextlib
import io
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from contract import Repository
from tests.port import free_ports
from tidegate.demo import show
from tidegate.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(280)]

README = Path(__file__).parents[2] / "README.md"
TIDEGATE = Path(sys.executable).with_name("tidegate")


def tidegate(*arguments: str, timeout_s: float = 240) -> str:
    """Run a command as a person does; AssertionError with its output unless it succeeds."""
    ended = subprocess.run([TIDEGATE, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, stack_over: Any) -> Iterator[tuple[Stack, str]]:
    folder = tmp_path_factory.mktemp("line")
    root = folder / "model_repository"
    tidegate("train", "fashion-resnet", "--quick", f"--repository={root}", f"--runs={folder / 'runs'}")
    with stack_over(root, folder / "run") as stack:
        said = io.StringIO()
        show(stack, "fashion-resnet", Console(file=said, width=100))
        yield stack, said.getvalue()


def test_training_publishes_a_verified_version_with_an_engine_built_ahead_of_time(line: tuple[Stack, str]) -> None:
    repository = Repository(line[0].repository)
    contract = repository.contract("fashion-mnist", 1, verified=True)
    accuracy = contract.evaluation.metric("accuracy")
    assert accuracy.num_samples == 10_000
    assert accuracy.low < accuracy.value < accuracy.high
    assert {a.role for a in contract.artifacts} >= {"model", "golden", "engine", "passport"}
    (row,) = json.loads(
        tidegate(
            "models", "--json", f"--repository={repository.root}", f"--triton=127.0.0.1:{line[0].ports.triton_grpc}"
        )
    )
    assert row["state"] == "served"
    assert row["engine"].startswith("tensorrt")


def test_the_demo_sends_real_images_and_prints_a_line_that_works_when_pasted(line: tuple[Stack, str]) -> None:
    stack, said = line
    sent = re.findall(r"(?:HTTP|gRPC).*?(\d+) +([\d.]+)% ", said)
    assert [num for num, _ in sent] == ["512", "512"]
    assert sent[0] == sent[1]
    assert float(sent[0][1]) > 60
    (curl,) = [text.strip() for text in said.splitlines() if text.strip().startswith("curl ")]
    answer = json.loads(subprocess.run(shlex.split(curl), capture_output=True, check=True, timeout=30).stdout)
    assert answer["model"] == "fashion-mnist"
    assert stack.url in said
    assert stack.prometheus_url in said


@pytest.mark.parametrize("program", ["curl ", "tidegate predict "])
def test_the_readmes_predict_lines_work(line: tuple[Stack, str], program: str) -> None:
    stack, _ = line
    (written,) = re.findall(rf"^(?:\.venv/bin/)?({program}.*)$", README.read_text(), re.MULTILINE)
    here = written.replace("http://127.0.0.1:8080", stack.url).replace("run/demo/", f"{stack.state}/demo/")
    assert here != written
    command = shlex.split(here)
    if command[0] == "tidegate":
        command = [str(TIDEGATE), *command[1:], "--url", stack.url]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Ankle boot" in ended.stdout


def test_drift_of_every_feature_reaches_prometheus(line: tuple[Stack, str], wait_until: Callable[..., Any]) -> None:
    """The demo's images come from where the reference came from, and there are enough of them to say so."""
    features = {f.name for f in Repository(line[0].repository).contract("fashion-mnist", 1).profile.features}

    def counted() -> set[str]:
        query = 'sum by (feature) (inference_feature_bin_total{model="fashion-mnist"}) >= 512'
        answer = httpx.get(
            f"{line[0].prometheus_url}/api/v1/query", params={"query": query}, trust_env=False, timeout=10
        )
        return {sample["metric"]["feature"] for sample in answer.json()["data"]["result"]}

    wait_until("every feature is counted", lambda: counted() == features - {"prediction"})


def three_ports_in_a_row() -> int:
    for first in range(20_000, 30_000, 3):
        with contextlib.ExitStack() as held:
            try:
                for port in range(first, first + 3):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise AssertionError("no three free ports in a row")


def test_up_stays_until_it_is_told_to_stop_and_leaves_nothing_behind(
    line: tuple[Stack, str], tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    names = ("http", "grpc", "metrics", "prometheus")
    ports = dict(zip(names, free_ports(4), strict=True))
    options = [f"--{name}-port={port}" for name, port in ports.items()]
    options.append(f"--triton-port={three_ports_in_a_row()}")
    command = [str(TIDEGATE), "up", f"--repository={line[0].repository}", f"--state={tmp_path}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert str(ports["http"]) in process.stdout.readline()
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert len(children) == 3
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            wait_until("the children are gone", lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
        finally:
            process.kill()
