"""The Job that `tidegate jobs` prints, and whether a Triton has settled, as its start-up probe asks."""

import os
import re
import threading
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tests.conftest import MakeVersion
from tests.k8s.cluster import K8S, Object, composed, containers, deployed, labels, matches, of_kind, overlay, pods
from tidegate import settled
from tidegate.command import app
from tidegate.error import CommandError
from tidegate.job import manifest

IMAGE = "registry.example.com/tidegate/training@sha256:" + 64 * "1"
COMMANDS = (
    ["sync", "s3://models/production", "/models/repository"],
    ["publish", "fashion-resnet"],
    ["models", "rollback", "m"],
)


def job(command: list[str], gpus: int = 0) -> Object:
    return dict(yaml.safe_load(manifest(command, gpus=gpus, image=IMAGE, namespace="team-a")))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_printed_job_is_valid_and_fits_the_cluster(command: list[str]) -> None:
    objects = composed(("network-policy", "training"))
    printed = job(command)
    ((_, pod),) = pods(({**printed, "metadata": printed["metadata"] | {"name": "any"}},))

    for version in ("1.33", "1.35", "1.37"):
        kubernetes_validate.validate(printed, version, strict=True)
    claims = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    assert {v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "emptyDir" not in v} <= claims
    accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    assert pod["spec"]["serviceAccountName"] in accounts
    policies = [o["spec"]["podSelector"] for o in of_kind(objects, "NetworkPolicy") if o["spec"]["podSelector"]]
    assert any(matches(selector, labels(pod)) for selector in policies)


def test_a_printed_job_is_hardened_as_the_gateway_is() -> None:
    gateway = deployed(overlay("cpu"), "gateway")
    ((_, pod),) = pods(({"kind": "Job", "metadata": {"name": "any"}, "spec": job(["sync", "a", "b"])["spec"]},))

    assert pod["spec"]["securityContext"] == gateway["securityContext"]
    assert containers(pod)[0]["securityContext"] == gateway["containers"][0]["securityContext"]
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_the_pod_that_takes_data_is_valid_hardened_and_writes_where_training_reads() -> None:
    text = (K8S / "components/training/README.md").read_text(encoding="utf-8")
    (shown,) = (yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S))
    (train,) = (pod for owner, pod in pods(composed(("training",))) if owner == "CronJob/train")
    (mine,), theirs = containers(shown), train["spec"]["containers"][0]

    for version in ("1.33", "1.35", "1.37"):
        kubernetes_validate.validate(shown, version, strict=True)
    for key in ("securityContext", "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks"):
        assert shown["spec"][key] == train["spec"][key], key
    assert mine["securityContext"] == theirs["securityContext"]
    claims = {each["persistentVolumeClaim"]["claimName"] for each in shown["spec"]["volumes"]}
    assert claims == {"data"}
    (data,) = (path for path in (a.removeprefix("--data=") for a in theirs["args"]) if path.startswith("/data/"))
    assert f"{data}.new {data}\n" in text, "the commands put it where the Job looks"


def test_a_job_with_a_gpu_finds_its_node_and_the_volumes_of_runs() -> None:
    pod = job(["train", "fashion-resnet"], gpus=1)["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["tolerations"]
    assert container["args"] == ["train", "fashion-resnet", "--repository=/models/repository", "--runs=/runs"]


def test_where_the_runs_lie_may_be_said_in_one_word_or_two() -> None:
    for said in (["--runs=/runs/mine"], ["--runs", "/runs/mine"]):
        (container,) = job(["train", "fashion-resnet", *said])["spec"]["template"]["spec"]["containers"]
        assert container["args"] == ["train", "fashion-resnet", *said, "--repository=/models/repository"]


def test_an_image_is_found_where_the_overlays_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandError, match="give --image"):
        manifest(["publish", "r"])

    folder = tmp_path / "k8s/components/images"
    folder.mkdir(parents=True)
    entry = {"name": "tidegate-training", "newName": "here/training", "digest": "sha256:" + 64 * "0"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"images": [entry]}))
    with pytest.raises(CommandError, match="has a placeholder for tidegate-training"):
        manifest(["publish", "r"])

    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"images": [entry | {"digest": "sha256:" + 64 * "1"}]}))
    assert f"here/training@sha256:{64 * '1'}" in manifest(["publish", "r"])


def test_the_commands_of_the_manifests_are_commands_of_tidegate() -> None:
    known = {each.name or str(getattr(each.callback, "__name__", "")) for each in app.registered_commands}
    used = {
        each["command"][1]
        for _, pod in pods(composed(("training",)))
        for each in containers(pod)
        if each["command"][0] == "tidegate"
    }

    assert used
    assert used <= known


def test_a_pod_waits_for_its_models_but_not_for_ever(
    tmp_path: Path, make_version: MakeVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    make_version(tmp_path / "models")
    arguments = [f"--repository={tmp_path / 'models'}", "--address=127.0.0.1:1"]

    assert settled.main([*arguments, "--patience=1e9"]) == 1
    assert "Triton at 127.0.0.1:1 doesn't answer" in capsys.readouterr().err
    assert settled.main([*arguments, "--patience=0"]) == 0


def test_a_volume_that_is_empty_or_cant_be_read_is_one_sentence(tmp_path: Path) -> None:
    empty, unreadable = tmp_path / "repository", tmp_path / "file"
    unreadable.touch()

    said = str(settled.unsettled(empty, "127.0.0.1:1"))
    assert said.startswith(f"there is no {empty} on the volume: publish a version, or copy one there")
    assert f"{unreadable} can't be read by user {os.getuid()}" in str(settled.unsettled(unreadable, "127.0.0.1:1"))


def test_a_pod_waits_for_a_repository_before_triton_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "repository"

    assert settled.main([f"--repository={root}", "--wait=0"]) == 1
    assert capsys.readouterr().err.startswith(f"there is no {root} on the volume")
    threading.Timer(0.2, root.mkdir).start()
    assert settled.main([f"--repository={root}", "--wait=60"]) == 0


def test_the_age_of_a_process_is_counted_from_its_start() -> None:
    assert 0 <= settled.age_s(os.getpid()) < settled.age_s(1)
