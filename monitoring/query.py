"""Asking a Prometheus over its HTTP API, with a deadline, and what it answers as numbers.

Source: https://prometheus.io/docs/prometheus/2.42/querying/api/
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from monitoring.error import QueryFailed

URL = "http://127.0.0.1:9090"
TIMEOUT_S = 10.0
MAX_POINTS = 11_000  # that Prometheus gives of one series in one answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One series at one instant; its name is the label `__name__`."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One series at every instant that was asked for, `[T]`, NaN where it had no value."""

    labels: Mapping[str, str]
    values: NDArray[np.float64]


class Client:
    """Asks the Prometheus at `url`; credentials may stand in it. A context manager; every call raises QueryFailed."""

    def __init__(self, url: str = URL, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        # No proxy from the environment: what is asked is on this host or in this cluster.
        self._http = httpx.Client(timeout=timeout_s, trust_env=False)

    def __enter__(self) -> Self:
        """Nothing is opened before the first question."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._http.close()

    def instant(self, expr: str, at_s: float | None = None) -> list[Sample]:
        """Every series of an expression, now or at a Unix time."""
        answer = self._ask("query", query=expr, **({} if at_s is None else {"time": at_s}))
        return [Sample(labels=row["metric"], value=float(row["value"][1])) for row in answer]

    def range(self, expr: str, start_s: int, end_s: int, step_s: int) -> list[Series]:
        """Every series of an expression from `start_s` to `end_s`, both included where the step meets them."""
        num = (end_s - start_s) // step_s + 1
        if not 1 <= num <= MAX_POINTS:
            raise ValueError(f"expected 1 to {MAX_POINTS} instants, got {num}")
        answer = self._ask("query_range", query=expr, start=start_s, end=end_s, step=step_s)
        series = []
        for row in answer:
            values = np.full(num, math.nan)
            times = np.array([time for time, _ in row["values"]], dtype=np.int64)
            values[(times - start_s) // step_s] = [float(value) for _, value in row["values"]]
            series.append(Series(labels=row["metric"], values=values))
        return series

    def _ask(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        try:
            answer = self._http.post(f"{self._url}/api/v1/{path}", data=parameters)
            document = answer.json()
        except httpx.TimeoutException:
            raise QueryFailed(f"Prometheus at {self._url} did not answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise QueryFailed(f"Prometheus at {self._url} can't be reached ({exc}); `tidegate up` starts one") from None
        except ValueError:
            raise QueryFailed(f"what answers at {self._url} is no Prometheus: it sent no JSON") from None
        if not isinstance(document, dict) or document.get("status") != "success":
            said = document.get("error") if isinstance(document, dict) else None
            raise QueryFailed(f"Prometheus at {self._url} refused a query: {said or answer.status_code!s:.200}")
        result: list[dict[str, Any]] = document["data"]["result"]
        return result


def matcher(**labels: str) -> str:
    """`{label="value", ...}` with the values escaped as PromQL wants them."""
    return "{" + ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()) + "}"
