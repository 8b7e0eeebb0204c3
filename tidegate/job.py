"""A Kubernetes Job that runs one command of `tidegate` on the cluster's volumes, hardened as everything else there.

What a person types on a laptop so runs where the models are: publishing, rolling back, copying from a bucket.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tidegate.error import CommandError

IMAGES = Path("k8s/components/images/kustomization.yaml")

_PLACEHOLDER = "sha256:" + 64 * "0"
_REPOSITORY = "/models/repository"
_WITH_RUNS = ("train", "publish", "sweep")
_DEADLINE_S = 24 * 3600
_KEEP_S = 7 * 24 * 3600


def manifest(command: Sequence[str], *, gpus: int = 0, image: str | None = None, namespace: str = "tidegate") -> str:
    """YAML of the Job; without `image`, the one of this checkout that has what the command needs.

    Raises CommandError where no image can be told.
    """
    delivers = command[0] == "sync"
    volumes = ["models", *(["runs", "data"] if command[0] in _WITH_RUNS else [])]
    name, component = f"tidegate-{command[0]}", "delivery" if delivers else "training"
    labels = {
        "app.kubernetes.io/name": name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "tidegate",
    }
    pod = {
        "serviceAccountName": "gateway" if delivers else "training",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **({"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]} if gpus else {}),
        "containers": [_container(command, gpus, image or _image(delivers), volumes, delivers)],
        "volumes": [
            *({"name": each, "persistentVolumeClaim": {"claimName": each}} for each in volumes),
            {"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}},
        ],
    }
    document = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": f"{name}-", "namespace": namespace, "labels": labels},
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": _DEADLINE_S,
            "ttlSecondsAfterFinished": _KEEP_S,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    return yaml.safe_dump(document, sort_keys=False, width=1000)


def _container(command: Sequence[str], gpus: int, image: str, volumes: Sequence[str], delivers: bool) -> dict[str, Any]:
    said = {argument.partition("=")[0] for argument in command}
    where = [] if delivers or "--repository" in said else [f"--repository={_REPOSITORY}"]
    if "runs" in volumes and "--runs" not in said:
        where.append("--runs=/runs")
    cpu, memory = ("1", "2Gi") if delivers else ("4", "16Gi")
    gpu = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "name": "tidegate",
        "image": image,
        "command": ["python", "-m", "tidegate"],
        "args": [*command, *where],
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108
        "resources": {
            "requests": {"cpu": cpu, "memory": memory, "ephemeral-storage": "1Gi"},
            "limits": {"memory": memory, "ephemeral-storage": "16Gi", **gpu},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            *({"name": each, "mountPath": f"/{each}"} for each in volumes),
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _image(delivers: bool) -> str:
    wanted = "tidegate-gateway" if delivers else "tidegate-training"
    try:
        images = yaml.safe_load(IMAGES.read_text(encoding="utf-8"))["images"]
    except FileNotFoundError:
        raise CommandError(f"there is no {IMAGES} here: give --image registry/name@sha256:...") from None
    found = next(each for each in images if each["name"] == wanted)
    if found["digest"] == _PLACEHOLDER:
        raise CommandError(f"{IMAGES} has a placeholder for {wanted}: put your image's digest there, or give --image")
    return f"{found['newName']}@{found['digest']}"
