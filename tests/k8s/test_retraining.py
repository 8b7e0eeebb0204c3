"""An alert makes a Job, once: against a cluster's API over HTTP, and the manifests' own CronJob."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from monitoring.alertmanager import ASK_FOR_TRAINING
from tests.k8s.cluster import Object, composed, containers, named
from tests.training.tiny import RECIPE, load
from tidegate.cluster import Api
from tidegate.error import ClusterError
from tidegate.retraining import MAX_BODY_BYTES, Retraining, create_receiver
from tidegate.retraining_run import main as begin
from training import train_stage
from training.checkpoint import CHECKPOINT_FILE, read_progress
from training.error import RunMismatch

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TOKEN = "s3cret"
TEMPLATE = named(composed(("training",)), "CronJob", "train")


class ApiServer:
    """CronJobs and Jobs over HTTP, as much of the API as is asked for; jobs are made running, and now."""

    def __init__(self) -> None:
        self.cron_jobs = [TEMPLATE | {"metadata": TEMPLATE["metadata"] | {"uid": "u-1"}}]
        self.jobs: list[dict[str, Any]] = []
        self.seen: list[str | None] = []
        self.refuse = 0

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        url = urlsplit(path)
        kind = url.path.removeprefix("/apis/batch/v1/namespaces/tidegate/")
        if self.refuse:
            return self.refuse, {"message": f'{kind} is forbidden: User "retrain" cannot list'}
        if method == "POST":
            assert kind == "jobs"
            self.jobs.append(body | {"metadata": body["metadata"] | {"creationTimestamp": f"{NOW:%Y-%m-%dT%H:%M:%SZ}"}})
            return 201, self.jobs[-1]
        key, _, value = parse_qs(url.query)["labelSelector"][0].partition("=")
        found = {"cronjobs": self.cron_jobs, "jobs": self.jobs}[kind]
        return 200, {"items": [each for each in found if each["metadata"]["labels"].get(key) == value]}

    def end(self, how: str) -> None:
        for job in self.jobs:
            job["status"] = {"conditions": [{"type": how, "status": "True"}]}


@pytest.fixture
def server() -> Iterator[tuple[ApiServer, str]]:
    cluster = ApiServer()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            cluster.seen.append(self.headers["authorization"])
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            status, document = cluster.answer(self.command, self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        do_GET = do_POST = _do  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield cluster, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join(5)
    http.server_close()


@pytest.fixture
def clock() -> list[datetime]:
    return [NOW]


@pytest.fixture
def receiver(server: tuple[ApiServer, str], tmp_path: Path, clock: list[datetime]) -> TestClient:
    (tmp_path / "token").write_text("pod-token\n")
    api = Api(url=server[1], namespace="tidegate", token=tmp_path / "token", authority=None)
    client = TestClient(
        create_receiver(Retraining(api, alerts=ASK_FOR_TRAINING, cooldown_s=3600, clock=lambda: clock[0]), TOKEN)
    )
    client.headers["authorization"] = f"Bearer {TOKEN}"
    return client


def alert(name: str = "FeatureDrift", model: str = "fashion-mnist", status: str = "firing") -> dict[str, Any]:
    return {"status": status, "labels": {"alertname": name, "model": model, "version": "1"}, "annotations": {}}


def decisions(receiver: TestClient, *alerts: dict[str, Any]) -> Any:
    return receiver.post("/alerts", json={"version": "4", "alerts": alerts}).raise_for_status().json()["decisions"]


def test_an_alert_makes_the_job_that_kubectl_would_make(server: tuple[ApiServer, str], receiver: TestClient) -> None:
    (decision,) = decisions(receiver, alert(), alert("PredictionDrift"))  # many features, one Job

    (job,) = server[0].jobs
    assert decision == {"model": "fashion-mnist", "alert": "FeatureDrift", "job": job["metadata"]["name"]}
    assert job["spec"] == TEMPLATE["spec"]["jobTemplate"]["spec"]
    assert job["metadata"]["ownerReferences"][0] | {"uid": "u-1"} == job["metadata"]["ownerReferences"][0]
    assert set(server[0].seen) == {"Bearer pod-token"}
    kubernetes_validate.validate(job, "1.35", strict=True)


def test_a_model_has_one_job_at_a_time_and_none_for_a_while_after(
    server: tuple[ApiServer, str], receiver: TestClient, clock: list[datetime]
) -> None:
    decisions(receiver, alert())
    assert "still runs" in decisions(receiver, alert())[0]["reason"]

    server[0].end("Failed")
    clock[0] += timedelta(minutes=59)
    assert "another may begin in 0:01:00" in decisions(receiver, alert())[0]["reason"]
    clock[0] += timedelta(minutes=1)
    assert decisions(receiver, alert())[0]["job"]


def test_each_job_learns_from_the_data_of_its_day_and_goes_on_with_its_own_run(
    server: tuple[ApiServer, str], receiver: TestClient, clock: list[datetime], tmp_path: Path
) -> None:
    """By the manifest's arguments, as the kubelet fills them in, and the training that they start."""
    decisions(receiver, alert())
    server[0].end("Complete")
    clock[0] += timedelta(days=1)
    decisions(receiver, alert())
    first, second = server[0].jobs

    assert trained(first, tmp_path, seed=1) == 0, "of no run that was there"
    assert trained(second, tmp_path, seed=2) == 0
    assert trained(first, tmp_path, seed=1) == trained(second, tmp_path, seed=2) == 2, "steps that were there already"
    with pytest.raises(RunMismatch, match="holds a run with other settings or data"):
        trained(second, tmp_path, seed=1)


def trained(job: Object, tmp_path: Path, *, seed: int) -> int:
    """What a pod of the Job does with a small recipe and that data; steps that the run had before it."""
    template = job["spec"]["template"]["spec"]
    init, container = containers({"spec": template})
    variables = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}  # a label that each pod of a Job has

    def filled(each: Object) -> list[str]:
        (path,) = (e["valueFrom"]["fieldRef"]["fieldPath"] for e in each["env"] if e["name"] == "JOB_NAME")
        value = variables[path.removeprefix("metadata.labels['").removesuffix("']")]
        return [
            argument.replace("$(JOB_NAME)", value).replace("=/runs", f"={tmp_path}/runs") for argument in each["args"]
        ]

    assert begin(filled(init)) == 0
    (runs,) = (Path(a.removeprefix("--runs=")) for a in filled(container) if a.startswith("--runs="))
    assert f"--runs={runs}" in filled(init)
    assert runs.is_relative_to(tmp_path / "runs")
    recipe = replace(RECIPE, load=lambda _: load(seed=seed))
    checkpoint = runs / recipe.quick().name / CHECKPOINT_FILE
    before = read_progress(checkpoint).step if checkpoint.exists() else 0
    train_stage(recipe, runs_dir=runs, console=Console(quiet=True), quick=True)
    return before


@pytest.mark.parametrize(
    "ignored",
    [
        alert(status="resolved"),
        alert("GatewayAbsent"),
        alert(model="x,tidegate/model=y"),
        {"status": "firing", "labels": {}},
    ],
)
def test_what_isnt_for_it_does_nothing(
    server: tuple[ApiServer, str], receiver: TestClient, ignored: dict[str, Any]
) -> None:
    assert decisions(receiver, ignored) == []
    assert not server[0].jobs
    assert not server[0].seen


def test_a_model_without_a_template_is_said(receiver: TestClient) -> None:
    (decision,) = decisions(receiver, alert(model="other"))
    assert decision["reason"] == "expected one CronJob with the label tidegate/model=other, found 0"


def test_a_cluster_that_refuses_is_asked_again_by_alertmanager(
    server: tuple[ApiServer, str], receiver: TestClient
) -> None:
    server[0].refuse = 403
    answer = receiver.post("/alerts", json={"alerts": [alert()]})
    assert (answer.status_code, answer.json()["error"]) == (
        503,
        'the cluster refuses to list cronjobs: cronjobs is forbidden: User "retrain" cannot list',
    )


def test_hostile_messages_are_refused(receiver: TestClient) -> None:
    assert receiver.post("/alerts", json=[], headers={"authorization": "Bearer no"}).status_code == 401
    assert receiver.post("/alerts", content=b"x" * (MAX_BODY_BYTES + 1)).status_code == 413
    answer = receiver.post("/alerts", json={"alerts": [{"status": "firing"}]})
    assert answer.status_code == 400
    assert answer.json()["error"] == "expected Alertmanager's message: alerts.0.labels: Field required"
    assert receiver.get("/health").status_code == 200


def test_outside_of_a_pod_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="expected to run in a pod with a service account"):
        Api.of_pod(tmp_path, {})
