"""Retraining when an alert asks for it: a webhook for Alertmanager that makes a Job from a suspended CronJob.

Opt in twice: apply the component, and point a route of Alertmanager's at it. A model is retrained by the CronJob that
carries the label `tidegate/model` with its name, through the same gates as ever: what isn't better isn't published.

An alert that fires for days asks again and again. So a model has one Job at a time, and none for a while after the
last one; both are read from the cluster's own Jobs, so no restart forgets them.
Source: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

import hashlib
import hmac
import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict, Field

from tidegate.cluster import Cluster, Resource
from tidegate.error import ClusterError

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

MODEL_LABEL, ALERT_ANNOTATION = "tidegate/model", "tidegate/alert"
MAX_BODY_BYTES = 1024 * 1024
MAX_ALERTS = 1_000

_LABEL_VALUE = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,61}[a-z0-9])?")


class Alert(BaseModel):
    """One alert of Alertmanager's message; what else it says is left aside."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str
    labels: dict[str, str]


class Message(BaseModel):
    """What Alertmanager posts, version 4."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    alerts: tuple[Alert, ...] = Field(max_length=MAX_ALERTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was done about a model: the Job that was made, or why none was."""

    model: str
    alert: str
    job: str = ""
    reason: str = ""


class Retraining:
    """Turns alerts into Jobs. One message at a time: two that come together make one Job."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        alerts: Sequence[str],
        cooldown_s: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster, self._cooldown, self._alerts = cluster, timedelta(seconds=cooldown_s), frozenset(alerts)
        self._clock = clock
        self._lock = threading.Lock()

    def heed(self, message: Message) -> list[Decision]:
        """A decision for each model that an alert of ours fires for; raises ClusterError, and may be asked again."""
        asked: dict[str, str] = {}
        for alert in message.alerts:
            name, model = alert.labels.get("alertname", ""), alert.labels.get("model", "")
            if alert.status == "firing" and name in self._alerts and _LABEL_VALUE.fullmatch(model):
                asked.setdefault(model, name)
        with self._lock:
            decisions = [self._decide(model, alert) for model, alert in sorted(asked.items())]
        for decision in decisions:
            log.info("%s for %s: %s", decision.alert, decision.model, decision.job or decision.reason)
        return decisions

    def _decide(self, model: str, alert: str) -> Decision:
        selector = f"{MODEL_LABEL}={model}"
        templates = self._cluster.cron_jobs(selector)
        if len(templates) != 1:
            reason = f"expected one CronJob with the label {selector}, found {len(templates)}"
            return Decision(model=model, alert=alert, reason=reason)
        if reason := self._held(self._cluster.jobs(selector)):
            return Decision(model=model, alert=alert, reason=reason)
        now = self._clock()
        return Decision(model=model, alert=alert, job=self._cluster.create_job(job_of(templates[0], model, alert, now)))

    def _held(self, jobs: Sequence[Resource]) -> str:
        for job in jobs:
            conditions = job.get("status", {}).get("conditions") or []
            if not any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions):
                return f"{job['metadata']['name']} still runs"
        began = [datetime.fromisoformat(job["metadata"]["creationTimestamp"]) for job in jobs]
        if began and (left := max(began) + self._cooldown - self._clock()) > timedelta(0):
            return f"the last one began less than {self._cooldown} ago; another may begin in {left}"
        return ""


def job_of(template: Resource, model: str, alert: str, now: datetime) -> Resource:
    """The Job that `kubectl create job --from=cronjob/...` would make, and the alert that asked for it."""
    metadata, spec = template["metadata"], template["spec"]["jobTemplate"]
    own = spec.get("metadata", {})
    # Two receivers in the same minute ask for the same name, and the second one is refused.
    stamp = f"{now:%Y%m%d%H%M}"
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{metadata['name'][:34]}-{digest}-{stamp}",
            "labels": {**own.get("labels", {}), MODEL_LABEL: model},
            "annotations": {
                **own.get("annotations", {}),
                "cronjob.kubernetes.io/instantiate": "manual",
                ALERT_ANNOTATION: alert,
            },
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "CronJob", "name": metadata["name"], "uid": metadata["uid"]}
            ],
        },
        "spec": spec["spec"],
    }


def create_receiver(retraining: Retraining, token: str | None) -> "FastAPI":
    """`POST /alerts` takes Alertmanager's messages, with the bearer token where there is one; `GET /health`."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse
    from pydantic import ValidationError

    app = FastAPI(title="Tidegate retraining", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/alerts")
    async def alerts(request: Request) -> JSONResponse:
        from starlette.concurrency import run_in_threadpool

        sent = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
            return JSONResponse({"error": "expected the bearer token of this receiver"}, 401)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                return JSONResponse({"error": f"expected at most {MAX_BODY_BYTES} bytes"}, 413)
        try:
            message = Message.model_validate_json(bytes(body))
        except ValidationError as exc:
            first = exc.errors()[0]
            at = ".".join(map(str, first["loc"])) or "the document"
            return JSONResponse({"error": f"expected Alertmanager's message: {at}: {first['msg']}"}, 400)
        try:
            decisions = await run_in_threadpool(retraining.heed, message)
        except ClusterError as exc:
            log.error("%s", exc)
            return JSONResponse({"error": str(exc)}, 503)  # Alertmanager sends it again
        return JSONResponse({"decisions": [_document(decision) for decision in decisions]})

    return app


def _document(decision: Decision) -> dict[str, Any]:
    done = {"job": decision.job} if decision.job else {"reason": decision.reason}
    return {"model": decision.model, "alert": decision.alert, **done}


def retrain(
    listen: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1:8090",
    cooldown_hours: Annotated[float, typer.Option(min=0, help="Hours between two Jobs of a model.")] = 24.0,
    token_file: Annotated[Path | None, typer.Option(help="Holds the bearer token that Alertmanager sends.")] = None,
    alert: Annotated[list[str] | None, typer.Option(help="Name of an alert that asks for a training.")] = None,
) -> None:
    """Take Alertmanager's alerts, and make a training Job for the model that one is about.

    Example: tidegate retrain --listen 0.0.0.0:8090 --token-file /etc/retrain/token
    """
    import uvicorn

    from monitoring.alertmanager import ASK_FOR_TRAINING
    from tidegate.cluster import Api
    from tidegate.error import CommandError

    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise CommandError(f"expected an address like 127.0.0.1:8090 in --listen, got {listen!r}")
    try:
        token = token_file.read_text(encoding="utf-8").strip() if token_file else None
    except OSError as exc:
        raise CommandError(f"the token can't be read from {token_file}: {exc.strerror}") from exc
    if token == "":
        raise CommandError(f"expected a token in {token_file}, and it is empty")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    retraining = Retraining(Api.of_pod(), cooldown_s=3600 * cooldown_hours, alerts=alert or ASK_FOR_TRAINING)
    uvicorn.run(
        create_receiver(retraining, token),
        host=host.strip("[]"),
        port=int(port),
        access_log=False,
        limit_concurrency=16,
        timeout_graceful_shutdown=15,
    )
