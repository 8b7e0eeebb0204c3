"""What this system asks of a Kubernetes cluster it runs in: CronJobs to make Jobs from, and the Jobs there are.

Three calls of the API with the pod's own service account; a client library of forty megabytes would do no more.
Source: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/
"""

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from tidegate.error import ClusterError

TIMEOUT_S = 10.0
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MAX_BYTES = 16 * 1024 * 1024

Resource = dict[str, Any]


class Cluster(Protocol):
    """The cluster's namespace that jobs run in."""

    def cron_jobs(self, labels: str) -> list[Resource]:
        """CronJobs by a label selector; raises ClusterError."""

    def jobs(self, labels: str) -> list[Resource]:
        """Jobs by a label selector; raises ClusterError."""

    def create_job(self, job: Resource) -> str:
        """Create a Job; its name. Raises ClusterError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Api:
    """The cluster's API server. The token is read at each call: it changes every hour."""

    url: str
    namespace: str
    token: Path
    authority: Path | None

    @classmethod
    def of_pod(cls, account: Path = _ACCOUNT, environment: Mapping[str, str] = os.environ) -> "Api":
        """The one this pod belongs to; raises ClusterError outside of a pod, or without a service account's token."""
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
        try:
            namespace = (account / "namespace").read_text(encoding="utf-8").strip()
        except OSError:
            namespace = ""
        if not host or not namespace:
            raise ClusterError(
                f"expected to run in a pod with a service account (KUBERNETES_SERVICE_HOST and {account}), and this is "
                "none: apply k8s/components/retrain"
            )
        host = f"[{host}]" if ":" in host else host
        return cls(
            url=f"https://{host}:{port}", namespace=namespace, token=account / "token", authority=account / "ca.crt"
        )

    def cron_jobs(self, labels: str) -> list[Resource]:
        """CronJobs by a label selector."""
        return self._list("cronjobs", labels)

    def jobs(self, labels: str) -> list[Resource]:
        """Jobs by a label selector."""
        return self._list("jobs", labels)

    def create_job(self, job: Resource) -> str:
        """Create a Job."""
        return str(self._call("POST", "jobs", job)["metadata"]["name"])

    def _list(self, kind: str, labels: str) -> list[Resource]:
        found: list[Resource] = self._call("GET", f"{kind}?labelSelector={quote(labels)}")["items"]
        return found

    def _call(self, method: str, path: str, body: Resource | None = None) -> Resource:
        address = f"{self.url}/apis/batch/v1/namespaces/{self.namespace}/{path}"
        try:
            headers = {"Authorization": f"Bearer {self.token.read_text(encoding='utf-8').strip()}"}
            if body is not None:
                headers["Content-Type"] = "application/json"
            data = None if body is None else json.dumps(body).encode()
            request = urllib.request.Request(address, data, headers, method=method)  # noqa: S310 - the pod's own server
            secure = ssl.create_default_context(cafile=str(self.authority)) if self.authority else None
            handlers = [urllib.request.ProxyHandler({})]
            handlers += [urllib.request.HTTPSHandler(context=secure)] if secure else []  # type: ignore[list-item]
            with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S) as answer:
                document = json.loads(answer.read(_MAX_BYTES))
        except urllib.error.HTTPError as exc:
            with exc:  # it holds the connection
                raise ClusterError(f"the cluster refuses to {_said(method, path)}: {_reason(exc)}") from exc
        except (OSError, ValueError) as exc:
            raise ClusterError(f"the cluster can't be asked to {_said(method, path)}: {exc!s:.160}") from exc
        if not isinstance(document, dict):
            raise ClusterError(f"the cluster answered {type(document).__name__} when asked to {_said(method, path)}")
        return document


def _said(method: str, path: str) -> str:
    return f"{'create' if method == 'POST' else 'list'} {path.partition('?')[0]}"


def _reason(exc: urllib.error.HTTPError) -> str:
    try:
        return f"{json.loads(exc.read(_MAX_BYTES))['message']!s:.200}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"status {exc.code}"
