"""The TrainJob's nodes run here as Kubeflow Trainer would start them: its environment, the manifest's command,
two pods. What isn't shown is GPUs, and JobSet itself.

Source of the environment: kubeflow/trainer, pkg/runtime/framework/plugins/torch/torch.go, pkg/constants/constants.go
"""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract import Repository
from tests.k8s.cluster import ROOT, Object, composed, named, pods
from tests.k8s.container import contained, run_pod
from tidegate.job import manifest

DATA = Path("/usr/share/datasets/fashion-mnist")
IMAGE = {str(ROOT): ROOT}
ENVIRONMENT = {
    "PATH": f"{ROOT}/.venv/bin:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",  # both nodes are this machine
}
QUICK = "--quick"


def train_job() -> tuple[Object, Object]:
    """The TrainJob and the runtime that it refers to."""
    objects = composed(("training",))
    job = named(objects, "TrainJob", "train-nodes")
    assert {key: job["spec"]["runtimeRef"][key] for key in ("apiGroup", "kind")} == {
        "apiGroup": "trainer.kubeflow.org",
        "kind": "TrainingRuntime",
    }
    return job, named(objects, "TrainingRuntime", job["spec"]["runtimeRef"]["name"])


def torch_environment(job: Object, rank: int) -> dict[str, str]:
    """What the plugin `torch` puts into the container `node` of a pod; a process a node, for there is no GPU here."""
    name = job["metadata"]["name"]
    return {
        "PET_NNODES": str(job["spec"]["trainer"]["numNodes"]),
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": f"{name}-node-0-0.{name}",
        "PET_MASTER_PORT": "29500",
    }


def test_trainer_finds_what_it_fills_in() -> None:
    job, runtime = train_job()
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    ((_, pod),) = pods((runtime,))
    (container,) = pod["spec"]["containers"]

    assert (replicated["name"], container["name"]) == ("node", "node")
    assert replicated["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    assert runtime["metadata"]["labels"]["trainer.kubeflow.org/framework"] == "torch"
    given = {each["name"] for each in (*container["env"], *job["spec"]["trainer"].get("env", []))}
    assert not given & torch_environment(job, 0).keys(), "its webhook refuses these"
    assert container["command"][0] == "torchrun"
    assert not [argument for argument in container["command"] if "nnodes" in argument or "rdzv" in argument]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert str(job["spec"]["trainer"]["numProcPerNode"]) == gpus, "a process a GPU"


def test_a_lost_node_starts_all_of_them_again() -> None:
    """A pod that Job alone brings back would wait for nodes that are in the middle of a run."""
    _, runtime = train_job()
    jobs = runtime["spec"]["template"]["spec"]
    (replicated,) = jobs["replicatedJobs"]

    assert replicated["template"]["spec"]["backoffLimit"] == 0
    assert jobs["failurePolicy"]["maxRestarts"] > 0
    assert replicated["template"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"


@pytest.mark.timeout(1200)  # it trains, on however busy a machine
@pytest.mark.slow
@pytest.mark.integration
def test_two_nodes_train_on_after_a_restart_and_one_job_publishes(allowed: None, tmp_path: Path) -> None:
    job, runtime = train_job()
    ((_, pod),) = pods((runtime,))
    volumes = {name: volume(tmp_path / name) for name in ("runs", "models")} | {"data": tmp_path / "data"}
    volumes["data"].mkdir()
    (volumes["data"] / DATA.name).symlink_to(DATA)
    nodes = [node(job, pod, rank, volumes) for rank in range(job["spec"]["trainer"]["numNodes"])]
    (name,) = {node["command"][3] for node in nodes}
    run = volumes["runs"] / f"{name}-quick"

    lost = run_pod(tmp_path, nodes, [], until=str(run / "checkpoint.safetensors"))
    assert lost["ready"], lost["logs"]
    assert all(lost["codes"].values()), "a node that is told to stop hasn't succeeded: JobSet starts it again"
    assert "goes on from its last checkpoint" in lost["logs"]["node-0"]
    again = run_pod(tmp_path, nodes, [], ends=True)
    assert again["codes"] == {"node-0": 0, "node-1": 0}, again["logs"]
    assert "goes on at step" in again["logs"]["node-0"]
    assert "epoch 3/3" in again["logs"]["node-0"]
    assert "epoch" not in again["logs"]["node-1"], "the first node speaks for both"

    publish = run_pod(tmp_path, [publication(volumes)], [], ends=True)
    assert publish["codes"] == {"tidegate": 0}, publish["logs"]
    assert Repository(volumes["models"] / "repository").versions("fashion-mnist") == [1]


def node(job: Object, pod: Object, rank: int, volumes: dict[str, Path]) -> dict[str, Any]:
    spec, name = pod["spec"], job["metadata"]["name"]
    numbers = range(job["spec"]["trainer"]["numNodes"])
    hosts = [f"{name}-node-0-{n}{domain}" for n in numbers for domain in (f".{name}", "")]
    environment = ENVIRONMENT | torch_environment(job, rank)
    made = contained(spec, spec["containers"][0], volumes, IMAGE, environment, hosts)
    changed = {"name": f"node-{rank}", "hostname": hosts[2 * rank + 1], "command": [*made["command"], QUICK]}
    return made | changed


def publication(volumes: dict[str, Path]) -> dict[str, Any]:
    """The Job of the component's README, which makes the version of the run."""
    text = (ROOT / "k8s/components/training/README.md").read_text()
    line = next(line for line in text.splitlines() if "-- publish" in line)
    command = shlex.split(line.partition(" -- ")[2].partition("|")[0])
    printed = yaml.safe_load(manifest([*command, QUICK, "--no-engine"], image=f"any@sha256:{64 * '1'}"))
    ((_, pod),) = pods((printed | {"metadata": {"name": "publish"}},))
    return contained(pod["spec"], pod["spec"]["containers"][0], volumes, IMAGE, ENVIRONMENT)


def volume(path: Path) -> Path:
    """An empty one, as the kubelet hands it to the group 1000."""
    path.mkdir()
    os.chown(path, 0, 1000)
    path.chmod(0o2770)
    return path
