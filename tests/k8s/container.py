"""A container of the manifests as `pod.py` runs it: its command, user and mounts, over this machine's files."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.k8s.cluster import Object

_SYSTEM = ("/usr", "/etc/ld.so.cache", "/etc/nsswitch.conf", "/proc", "/dev")
_PASSWD = "root:x:0:0:root:/root:/bin/sh\n"  # an image knows no user 1000


def contained(
    pod: Object,
    container: Object,
    volumes: dict[str, Path],
    image: dict[str, Path],
    environment: dict[str, str],
    hosts: Sequence[str] = ("triton",),
) -> dict[str, Any]:
    """A container over an image made of this machine; `hosts` are the names that lead to the pod itself."""
    kinds = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    binds = {path: volumes[mount["name"]] for path, mount in mounts.items() if "emptyDir" not in kinds[mount["name"]]}
    merged = [Path(f"/{name}") for name in ("bin", "lib", "lib64", "sbin")]  # into /usr, by links
    base = {path: Path(path) for path in (*_SYSTEM, sys.base_prefix)}
    own = {each["name"]: each["value"] for each in container.get("env", [])}
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    probes = [container[key]["httpGet"] for key in ("readinessProbe", "livenessProbe") if key in container]
    return {
        "name": container["name"],
        "command": [*container["command"], *container.get("args", [])],
        "user": pod["securityContext"]["runAsUser"],
        "group": pod["securityContext"]["runAsGroup"],
        "environment": environment | own,
        "directories": sorted({str(Path(path).parent) for path in (*binds, *image, sys.base_prefix)}),
        "links": {str(path): str(path.readlink()) for path in merged if path.is_symlink()},
        "files": {"/etc/hosts": f"127.0.0.1 localhost {' '.join(hosts)}\n", "/etc/passwd": _PASSWD},
        "binds": {path: str(source) for path, source in (base | image | binds).items()},
        "writable": [path for path in binds if not mounts[path].get("readOnly")],
        "empty": [p for p, mount in mounts.items() if "emptyDir" in kinds[mount["name"]] and p != "/dev/shm"],
        "probes": [{"port": ports[probe["port"]], "path": probe["path"]} for probe in probes],
    }


def run_pod(
    tmp_path: Path, containers: list[dict[str, Any]], requests: list[dict[str, Any]], **more: Any
) -> dict[str, Any]:
    """What became of the containers, in namespaces of their own; `more` is what else `pod.py` reads."""
    work = tmp_path / f"pod-{len(list(tmp_path.glob('pod-*')))}"
    work.mkdir()
    isolated = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*isolated, sys.executable, "-I", str(Path(__file__).with_name("pod.py"))],
        input=json.dumps({"work": str(work), "containers": containers, "requests": requests} | more),
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
