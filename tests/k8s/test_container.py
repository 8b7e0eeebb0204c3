"""The commands of the containers run here under the same user, read-only root and environment, and become ready.

The gateway's environment is installed by the very commands of its Dockerfile. Triton is the real one, of the wheel:
NVIDIA's container can't be had here, and its libraries, GPU and C++ backends are what this doesn't show.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contract import Contract
from monitoring.fast_lane import TIMESTAMP
from serving.runtime import find
from tests.conftest import MakeVersion
from tests.k8s.cluster import K8S, ROOT, Object, composed, deployed, named, overlay
from tests.k8s.container import contained, run_pod
from tests.k8s.dockerfile import instructions

pytestmark = [pytest.mark.integration, pytest.mark.slow]

INSTALLED = "/opt/tidegate"
MAX_MIB = 250


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, allowed: None) -> Path:
    """The environment that the gateway's Dockerfile makes, by its own commands."""
    work = tmp_path_factory.mktemp("image")
    place = work / "opt"
    place.mkdir()
    context = work / "build"
    steps = instructions(ROOT / "docker/gateway/Dockerfile")
    for step in steps:
        if step.name == "COPY" and "--from" not in step.text:
            *sources, target = step.text.split()
            for source in sources:
                copied = context / target / (source if target == "./" else "")
                copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy2
                copied.parent.mkdir(parents=True, exist_ok=True)
                copy(ROOT / source, copied)
    (run,) = (step.text.replace("--no-cache-dir ", "") for step in steps if step.name == "RUN")  # ours may be used
    script = f"mount -t tmpfs tmpfs /opt && mkdir {INSTALLED} && mount --bind {place} {INSTALLED} && {run}"
    path = f"{sys.base_prefix}/bin:{os.environ['PATH']}"
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-eu", "-c", script],
        cwd=context, env=environment | {"PATH": path}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return place


def test_the_gateway_s_environment_is_small_and_has_no_torch(installed: Path) -> None:
    size = sum(path.lstat().st_blocks * 512 for path in installed.rglob("*")) / 2**20

    assert size < MAX_MIB, f"{size:.0f} MiB"
    assert not list(installed.glob("lib/python3.*/site-packages/torch"))


@pytest.fixture
def repository(tmp_path: Path, make_version: MakeVersion) -> Contract:
    """One published version on a volume, as jobs of the same user leave it."""
    root = tmp_path / "volume" / "repository"
    root.mkdir(parents=True)
    return make_version(root)


def test_the_pods_become_ready_and_answer(installed: Path, repository: Contract, tmp_path: Path) -> None:
    """Triton, its loader and the gateway of the overlay for CPUs, in one network."""
    volumes = {"models": tmp_path / "volume", "routes": K8S / "base"}
    objects = overlay("cpu")
    triton, gateway = deployed(objects, "triton"), deployed(objects, "gateway")
    image = {INSTALLED: installed}
    image_path = f"{INSTALLED}/bin:/usr/bin:/bin"
    server, loader = triton["containers"]
    settings = config(objects, gateway["containers"][0])
    containers = [
        contained(triton, server, volumes, *runtime(tmp_path)),
        contained(triton, loader, volumes, image, {"PATH": image_path}),
        contained(gateway, gateway["containers"][0], volumes, image, {"PATH": image_path} | settings),
    ]
    containers[1]["also"] = [loader["startupProbe"]["exec"]["command"]]
    containers[2]["also"] = [["touch", path] for path in ("/x", "/models/repository/x", "/opt/tidegate/x", "/tmp/x")]

    pixels = np.full((1, 8, 8, 1), 255, np.uint8)
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 1], "data": pixels.ravel().tolist()}
    requests = [
        {"port": 8080, "path": "/v2/models/tiny/infer", "method": "POST", "body": json.dumps({"inputs": [tensor]})},
        {"port": 8082, "path": "/metrics"},
    ]
    before = contained(triton, triton["initContainers"][0], volumes, image, {"PATH": image_path})
    assert run_pod(tmp_path, [before], [], ends=True)["codes"] == {"repository": 0}
    outcome = run_pod(tmp_path, containers, requests)

    assert outcome["ready"], outcome["logs"]
    (status, answer), (_, metrics) = outcome["answers"]
    assert status == 200, answer
    assert json.loads(answer)["model_name"] == "tiny"
    assert 'gateway_requests_total{code="200",model="tiny"' in metrics
    written = {command.split()[1]: code == 0 for command, (code, _) in outcome["ran"].items() if "touch" in command}
    assert written == {"/x": False, "/models/repository/x": False, "/opt/tidegate/x": False, "/tmp/x": True}
    assert outcome["ran"][" ".join(loader["startupProbe"]["exec"]["command"])][0] == 0
    assert outcome["codes"] == {"triton": 0, "loader": 0, "gateway": 0}, outcome["logs"]


def test_the_fast_lane_runs_in_the_gateway_s_image(installed: Path, tmp_path: Path) -> None:
    """Without its Prometheus, which it waits for; it ends at once when told to."""
    pod = deployed(composed(("fast-lane",)), "fast-lane")
    (tmp_path / "volume").mkdir()
    path = {"PATH": f"{INSTALLED}/bin:/usr/bin:/bin"}
    volumes = {"models": tmp_path / "volume"}

    lane = contained(pod, pod["containers"][0], volumes, {INSTALLED: installed}, path)
    outcome = run_pod(tmp_path, [lane], [{"port": 9098, "path": "/metrics"}])

    assert outcome["ready"], outcome["logs"]
    ((status, metrics),) = outcome["answers"]
    assert status == 200
    assert f"# TYPE {TIMESTAMP} gauge" in metrics
    assert outcome["codes"] == {"fast-lane": 0}, outcome["logs"]
    assert "Prometheus at http://prometheus:9090 can't be reached" in outcome["logs"]["fast-lane"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"TIDEGATE_MAX_INFLIGHT": "none"}, "a setting is not valid: TIDEGATE_MAX_INFLIGHT"),
        ({"TIDEGATE_FEEDBACK_KEYS": "/etc/tidegate/feedback/feedback.keys"}, "the feedback keys can't be read"),
        ({"TIDEGATE_API_KEYS": "/etc/tidegate/access/api.keys"}, "the API keys can't be read"),
        ({"TIDEGATE_ROUTES": "/etc/tidegate/routes/other.yaml"}, "other.yaml"),
    ],
)
def test_what_is_wrong_is_the_last_line_of_a_gateway_that_doesn_t_start(
    installed: Path, tmp_path: Path, change: dict[str, str], sentence: str
) -> None:
    """So it is the container's termination message, by `FallbackToLogsOnError`."""
    objects = overlay("cpu")
    gateway = deployed(objects, "gateway")
    settings = config(objects, gateway["containers"][0]) | change
    (tmp_path / "volume").mkdir()
    volumes = {"models": tmp_path / "volume", "routes": K8S / "base"}
    path = {"PATH": f"{INSTALLED}/bin:/usr/bin:/bin"}

    outcome = run_pod(
        tmp_path, [contained(gateway, gateway["containers"][0], volumes, {INSTALLED: installed}, path | settings)], []
    )

    assert not outcome["ready"]
    assert outcome["codes"] == {"gateway": 2}
    assert sentence in outcome["logs"]["gateway"].strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        (0o755, "there is no /models/repository on the volume: publish a version, or copy one there with"),
        (
            0o700,
            "/models/repository can't be read by user 1000 (Permission denied): let its group 1000 read the volume",
        ),
    ],
    ids=["empty", "unreadable"],
)
def test_a_volume_without_models_is_said_before_triton_starts_and_the_gateway_waits(
    installed: Path, tmp_path: Path, mode: int, sentence: str
) -> None:
    volumes = {"models": tmp_path / "volume", "routes": K8S / "base"}
    volumes["models"].mkdir(mode=mode)  # the test's user has it for itself, which isn't user 1000
    objects = overlay("cpu")
    triton, gateway = deployed(objects, "triton"), deployed(objects, "gateway")
    image, path = {INSTALLED: installed}, {"PATH": f"{INSTALLED}/bin:/usr/bin:/bin"}
    settings = config(objects, gateway["containers"][0])

    waits = contained(triton, triton["initContainers"][0], volumes, image, path)
    waits["command"] = [argument.replace("--wait=3600", "--wait=0") for argument in waits["command"]]
    ended = run_pod(tmp_path, [waits], [], ends=True)
    assert ended["codes"] == {"repository": 1}
    assert sentence in ended["logs"]["repository"].strip().splitlines()[-1]

    stays = contained(gateway, gateway["containers"][0], volumes, image, path | settings)
    stays["probes"] = [probe for probe in stays["probes"] if probe["path"] == "/health/live"]
    outcome = run_pod(tmp_path, [stays], [{"port": 8080, "path": "/health/ready"}])
    assert outcome["ready"], outcome["logs"]
    assert outcome["answers"][0][0] == 503
    assert outcome["codes"] == {"gateway": 0}, outcome["logs"]


def config(objects: tuple[Object, ...], container: Object) -> dict[str, str]:
    """The environment that `envFrom` and `env` give."""
    (source,) = container["envFrom"]
    values = dict(named(objects, "ConfigMap", source["configMapRef"]["name"])["data"])
    return values | {each["name"]: each["value"] for each in container.get("env", [])}


def runtime(tmp_path: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The wheel's Triton in the place of NVIDIA's container: what to mount, and its environment."""
    state = tmp_path / "state"
    found = find(state, venv=ROOT / ".venv-triton")
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    shim = bin_dir / "tritonserver"
    arguments = " ".join(found.arguments).replace(str(state), "/state")  # /tmp is an empty volume there
    shim.write_text(f'#!/bin/sh\nexec {found.binary} "$@" {arguments}\n')
    shim.chmod(0o755)
    environment = {**found.environment, "PATH": f"/shim:{found.environment['PATH']}"}
    venv = ROOT / ".venv-triton"
    return {str(venv): venv, "/shim": bin_dir, "/state": state}, environment
