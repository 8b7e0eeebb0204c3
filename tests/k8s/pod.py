"""Runs containers of the manifests as a node would: their command, user and environment, over a read-only root.

Started by a test in namespaces of its own (mounts, network, processes), where it is process 1 and may mount. It reads
what to run as JSON from standard input, and writes what became of it as JSON. Containers share the network, as those of
a pod do. It uses only the standard library: it runs before anything of ours is in its root.
"""

import fcntl
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DEADLINE_S, JOB_DEADLINE_S = 60.0, 400.0
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def main() -> None:
    spec: dict[str, Any] = json.load(sys.stdin)
    raise_loopback()
    running: dict[str, subprocess.Popen[bytes]] = {}
    outcome: dict[str, Any] = {"ready": False, "answers": [], "codes": {}, "logs": {}, "ran": {}}
    for each in spec["containers"]:
        root = make_root(Path(spec["work"], each["name"]), each)
        running[each["name"]] = start(each, each["command"], root, Path(spec["work"], f"{each['name']}.log"))
    try:
        outcome["ready"] = wait(spec, running)
        for each in spec["containers"]:
            for command in each.get("also", []):
                done = run_to_end(each, command, Path(spec["work"], each["name"]))
                outcome["ran"][" ".join(command)] = done
        for request in spec.get("requests", []):
            outcome["answers"].append(ask(**request))
    finally:
        for name, process in running.items():
            process.send_signal(signal.SIGTERM)
            outcome["codes"][name] = process.wait(60)
            outcome["logs"][name] = Path(spec["work"], f"{name}.log").read_text(errors="replace")[-4000:]
    json.dump(outcome, sys.stdout)


def make_root(root: Path, each: dict[str, Any]) -> Path:
    """A root that holds what the container's image and volumes would, read-only but for its empty volumes."""
    root.mkdir()
    mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", root)
    for target in each["directories"]:
        (root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for target, source in each["links"].items():
        (root / target.lstrip("/")).symlink_to(source)
    for target, text in each["files"].items():
        place = root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    for target, source in each["binds"].items():
        place = root / target.lstrip("/")
        if Path(source).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        mount("--rbind", source, place)
        if target not in ("/proc", "/dev", *each["writable"]):
            mount("-o", "remount,bind,ro", place)
    for target in each["empty"]:
        (root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        mount(
            "-t", "tmpfs", "-o", f"mode=0770,uid={each['user']},gid={each['group']}", "tmpfs", root / target.lstrip("/")
        )
    mount("-o", "remount,ro", root)
    return root


def start(each: dict[str, Any], command: list[str], root: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(contained(each, command, root), env=each["environment"], stdout=file, stderr=file)


def run_to_end(each: dict[str, Any], command: list[str], root: Path) -> tuple[int, str]:
    done = subprocess.run(
        contained(each, command, root), env=each["environment"], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def contained(each: dict[str, Any], command: list[str], root: Path) -> list[str]:
    ids = (f"--reuid={each['user']}", f"--regid={each['group']}", "--clear-groups")
    bare = ("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
    rename = ("/usr/bin/unshare", "--uts", "/bin/sh", "-c", 'echo "$0" >/proc/sys/kernel/hostname && exec "$@"')
    named = (*rename, each["hostname"]) if "hostname" in each else ()
    # chroot before the user is changed, setpriv in the new root: both are in the image's /usr.
    return [*named, "/usr/sbin/chroot", str(root), "/usr/bin/setpriv", *ids, *bare, *command]


def wait(spec: dict[str, Any], running: dict[str, subprocess.Popen[bytes]]) -> bool:
    """Until the containers are ready; or have ended, where `ends` is true; or the file that `until` names is there."""
    if "until" in spec:
        return poll(lambda: Path(spec["until"]).exists(), running)
    if spec.get("ends"):
        return poll(lambda: all(process.poll() is not None for process in running.values()))
    return wait_until_ready(spec, running)


def poll(holds: Callable[[], bool], running: Mapping[str, subprocess.Popen[bytes]] | None = None) -> bool:
    until = time.monotonic() + JOB_DEADLINE_S
    while not holds():
        ended = any(process.poll() is not None for process in (running or {}).values())
        if ended or time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def wait_until_ready(spec: dict[str, Any], running: dict[str, subprocess.Popen[bytes]]) -> bool:
    waiting = [probe for each in spec["containers"] for probe in each["probes"]]
    until = time.monotonic() + DEADLINE_S
    while waiting and time.monotonic() < until:
        if any(process.poll() is not None for process in running.values()):
            return False
        waiting = [probe for probe in waiting if ask(**probe)[0] != 200]
        time.sleep(0.1)
    return not waiting


def ask(port: int, path: str, method: str = "GET", body: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        return 0, str(exc)
    finally:
        connection.close()


def raise_loopback() -> None:
    with socket.socket() as any_socket:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP))


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, env=os.environ | {"LC_ALL": "C"})


if __name__ == "__main__":
    main()
