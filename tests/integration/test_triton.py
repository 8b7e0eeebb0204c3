"""The real Triton, started once for the module: models come, go, break and are swapped; then Triton itself dies."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest

from contract import Repository
from serving.control import Control
from serving.error import PortInUse
from serving.launcher import Launcher, LaunchSettings
from serving.loader import Loader, ModelState
from serving.runtime import Runtime
from serving.supervisor import Supervisor, SupervisorSettings
from tests.integration.triton import (
    ROOT,
    ROWS,
    TIMEOUT_S,
    TIMES,
    VENV,
    Client,
    MakeVersion,
    Serving,
    some_ports,
    times,
    until,
)

pytestmark = pytest.mark.integration


def test_a_published_version_answers_as_its_golden_samples_say(serving: Serving, make_version: MakeVersion) -> None:
    contract = make_version(serving.repository.root)
    assert serving.loader.reconcile() == {"tiny": ModelState(versions=(1,))}
    with np.load(serving.repository.version_dir("tiny", 1) / "golden.npz") as golden:
        answered = serving.client.infer("tiny", {"image": golden["input.image"]})
        np.testing.assert_allclose(answered["logits"], golden["output.logits"], rtol=0, atol=1e-5)
    images = np.zeros((contract.batch.max + 1, 8, 8, 1), np.uint8)
    assert "batch-size must be <= 8" in serving.client.refusal("tiny", {"image": images})


def test_a_broken_model_is_named_and_the_others_serve(serving: Serving) -> None:
    serving.publish("good", times(2), TIMES)
    serving.publish("broken", times(2), TIMES)
    (serving.repository.version_dir("broken", 1) / "model.onnx").write_bytes(b"garbage")
    states = serving.loader.reconcile()
    assert states["good"].healthy
    assert states["broken"].versions == ()
    assert states["broken"].problem == "none of its versions can be served"
    reason = states["broken"].problems[1]
    assert reason.startswith("broken/1/model.onnx can't be loaded: ")
    assert str(serving.repository.root) not in reason
    np.testing.assert_array_equal(serving.client.infer("good", {"x": ROWS})["y"], 2 * ROWS)
    onnx.save(times(3), serving.repository.version_dir("broken", 1) / "model.onnx")
    assert serving.loader.reconcile()["broken"].healthy
    np.testing.assert_array_equal(serving.client.infer("broken", {"x": ROWS})["y"], 3 * ROWS)


def test_a_broken_version_is_left_out_and_the_others_serve(serving: Serving) -> None:
    for version in (1, 2, 3):
        serving.publish("model", times(version), TIMES, version)
    (serving.repository.version_dir("model", 2) / "model.onnx").write_bytes(b"garbage")
    state = serving.loader.reconcile()["model"]
    assert state.versions == (1, 3)
    assert list(state.problems) == [2]
    for version in (1, 3):
        np.testing.assert_array_equal(serving.client.infer("model", {"x": ROWS}, version)["y"], version * ROWS)


def test_a_file_that_training_didnt_write_is_refused_and_named(serving: Serving, make_version: MakeVersion) -> None:
    make_version(serving.repository.root)
    make_version(serving.repository.root, version=2)
    model = serving.repository.version_dir("tiny", 2) / "model.onnx"
    model.write_bytes(model.read_bytes().replace(b"tiny", b"evil"))  # a valid model all the same
    onnx.checker.check_model(str(model))
    state = serving.loader.reconcile()["tiny"]
    assert state.versions == (1,)
    assert state.problems[2].startswith("tiny/2/model.onnx: expected sha256")
    image = np.zeros((1, 8, 8, 1), np.uint8)
    assert serving.client.infer("tiny", {"image": image}, version=1)["logits"].shape == (1, 3)
    with pytest.raises(grpc.RpcError, match=r"version 2 is not (found|available)|not available"):
        serving.client.infer("tiny", {"image": image}, version=2)


def test_versions_and_models_come_and_go(serving: Serving) -> None:
    serving.publish("model", times(1), TIMES)
    assert serving.loader.reconcile()["model"].versions == (1,)
    serving.publish("model", times(2), TIMES, version=2)
    assert serving.loader.reconcile()["model"].versions == (1, 2)
    np.testing.assert_array_equal(serving.client.infer("model", {"x": ROWS})["y"], 2 * ROWS)
    config = serving.repository.root / "model" / "config.pbtxt"
    config.write_text(config.read_text().replace("all { }", "specific { versions: [1] }"))
    assert serving.loader.reconcile()["model"].versions == (1,)
    np.testing.assert_array_equal(serving.client.infer("model", {"x": ROWS})["y"], ROWS)
    shutil.rmtree(serving.repository.root / "model")
    assert serving.loader.reconcile() == {}
    assert "unknown model" in serving.client.refusal("model", {"x": ROWS})


def test_a_reload_drops_no_request(serving: Serving) -> None:
    """Two clients keep asking while versions are added, replaced and taken away."""
    serving.publish("model", times(1), TIMES)
    serving.loader.reconcile()
    done = threading.Event()
    failures: list[str] = []
    factors: list[set[float]] = [set(), set()]

    def ask(client: int) -> None:
        for _ in range(20_000):
            if done.is_set():
                return
            try:
                factors[client].add(float(serving.client.infer("model", {"x": ROWS})["y"][0, 1]))
            except grpc.RpcError as exc:
                failures.append(exc.details())

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(2)]
    for thread in threads:
        thread.start()
    try:
        for version in (2, 3):
            serving.publish("model", times(version), TIMES, version)
            assert serving.loader.reconcile()["model"].healthy
            until(lambda expected=float(version): all(expected in seen for seen in factors))  # type: ignore[misc]
        onnx.save(times(7), serving.repository.version_dir("model", 3) / "model.onnx")
        assert serving.loader.reconcile()["model"].healthy
        until(lambda: all(7.0 in seen for seen in factors))
        shutil.rmtree(serving.repository.version_dir("model", 1))
        assert serving.loader.reconcile()["model"].versions == (2, 3)
    finally:
        done.set()
        for thread in threads:
            thread.join(TIMEOUT_S)
    assert failures == []


def test_triton_serves_metrics_without_summaries(serving: Serving) -> None:
    serving.load("counted", times(2), TIMES)
    serving.client.infer("counted", {"x": ROWS})

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{serving.ports.metrics}/metrics", timeout=TIMEOUT_S) as response:
            return str(response.read().decode())

    # Triton counts after it has answered.
    until(lambda: 'nv_inference_request_success{model="counted",version="1"} 1' in metrics())
    assert "summary" not in metrics()
    assert "nv_cpu_utilization" in metrics()


# The onnxruntime backend


def test_a_second_triton_on_the_same_ports_is_one_clear_sentence(
    serving: Serving, runtime: Runtime, tmp_path: Path
) -> None:
    settings = LaunchSettings(repository=tmp_path, state_dir=tmp_path, ports=serving.ports)
    with pytest.raises(PortInUse, match=f"Triton can't listen on 127.0.0.1:{serving.ports.http} "):
        Launcher(runtime, settings).start()
    assert serving.launcher.pid is not None


def test_a_killed_triton_comes_back_with_its_models(
    runtime: Runtime, tiny_repository: Repository, tmp_path: Path
) -> None:
    broken = tiny_repository.version_dir("broken", 1)
    broken.mkdir(parents=True)
    (broken / "model.onnx").write_bytes(b"garbage")
    (broken.parent / "config.pbtxt").write_text(f'name: "broken" backend: "onnxruntime"\n{TIMES}')
    ports, stop = some_ports(), threading.Event()
    settings = LaunchSettings(
        repository=tiny_repository.root, state_dir=tmp_path / "state", ports=ports, stop_timeout_s=1.0
    )
    launcher = Launcher(runtime, settings)
    client = Client(f"127.0.0.1:{ports.grpc}")
    image = {"image": np.full((1, 8, 8, 1), 255, np.uint8)}

    def answers() -> bool:
        try:
            return int(client.infer("tiny", image)["logits"].argmax()) == 2
        except grpc.RpcError:
            return False

    def kill_stub() -> None:
        """Its model's process alone, as the kernel does when memory runs out."""
        threads = Path(f"/proc/{launcher.pid}/task").glob("*/children")
        stubs = [pid for children in threads for pid in children.read_text().split()]
        os.kill(int(stubs[0]), signal.SIGKILL)

    with Control(f"127.0.0.1:{ports.grpc}", stop=stop) as control:
        loader = Loader(tiny_repository, control)
        supervisor = Supervisor(loader, launcher, stop=stop, settings=SupervisorSettings(interval_s=0.1))
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            until(answers)
            first = launcher.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            until(lambda: launcher.pid not in (None, first))
            until(answers)
            until(lambda: 1 in loader.states.get("broken", ModelState()).problems)
            second = launcher.pid
            kill_stub()
            until(lambda: not answers())
            until(answers)
            assert launcher.pid == second
        finally:
            stop.set()
            thread.join(TIMEOUT_S)
            client.close()
    assert not thread.is_alive()
    assert launcher.pid is None
    assert not list(Path("/dev/shm").glob(f"tidegate_{os.getpid()}_{ports.grpc}_*"))


def test_a_triton_that_hangs_is_started_again(runtime: Runtime, tiny_repository: Repository, tmp_path: Path) -> None:
    ports, stop = some_ports(), threading.Event()
    settings = LaunchSettings(
        repository=tiny_repository.root, state_dir=tmp_path / "state", ports=ports, stop_timeout_s=0.5
    )
    launcher = Launcher(runtime, settings)
    with Control(f"127.0.0.1:{ports.grpc}", timeout_s=0.3, stop=stop) as control:
        loader = Loader(tiny_repository, control)
        rhythm = SupervisorSettings(interval_s=0.1, hang_timeout_s=0.5)
        thread = threading.Thread(target=Supervisor(loader, launcher, stop=stop, settings=rhythm).run)
        thread.start()
        try:
            until(lambda: loader.states.get("tiny", ModelState(problem="not yet")).healthy)
            first = launcher.pid
            assert first is not None
            os.kill(first, signal.SIGSTOP)
            until(lambda: launcher.pid not in (None, first))
            until(lambda: loader.states.get("tiny", ModelState(problem="not yet")).healthy)
        finally:
            stop.set()
            thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def test_a_triton_run_by_someone_else_is_kept_in_step(serving: Serving) -> None:
    serving.publish("model", times(5), TIMES)
    command = [sys.executable, "-m", "serving", "--repository", str(serving.repository.root), "--interval", "0.1"]
    command += ["--address", f"127.0.0.1:{serving.ports.grpc}"]

    def served(factor: float) -> bool:
        try:
            return float(serving.client.infer("model", {"x": ROWS})["y"][0, 1]) == factor
        except grpc.RpcError:
            return False

    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(lambda: served(5))
            serving.publish("model", times(6), TIMES, version=2)
            until(lambda: served(6))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=TIMEOUT_S)
            finally:
                process.kill()
    assert process.returncode == 0
    assert served(6)  # it went, Triton stayed


def test_the_command_serves_until_it_is_told_to_stop(tiny_repository: Repository, tmp_path: Path) -> None:
    ports = some_ports()
    command = [sys.executable, "-m", "serving", "--repository", str(tiny_repository.root), "--venv", str(VENV)]
    command += ["--state-dir", str(tmp_path / "state"), "--interval", "0.1", "--stop-timeout", "1"]
    command += ["--http-port", str(ports.http), "--grpc-port", str(ports.grpc), "--metrics-port", str(ports.metrics)]
    client = Client(f"127.0.0.1:{ports.grpc}")
    image = {"image": np.zeros((1, 8, 8, 1), np.uint8)}

    def answers() -> bool:
        try:
            return int(client.infer("tiny", image)["logits"].argmax()) == 0
        except grpc.RpcError:
            return False

    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(answers)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                _, log = process.communicate(timeout=TIMEOUT_S)
            finally:
                process.kill()
                client.close()
    assert process.returncode == 0
    assert "Triton is ready after" in log
    assert "model tiny serves version 1" in log
    assert log.rstrip().endswith("stopped")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", ports.http))
