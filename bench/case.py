"""What is put side by side for a model: Triton, the gateway, one that doesn't count, the plain loop, the peers."""

import contextlib
import re
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.environment import Peer
from bench.error import LoadError
from bench.kind import COUNTED, HOST, UNCOUNTED, Kind, LoopKind, predict, v2_binary, v2_grpc, v2_json
from bench.load import Shape
from bench.model import PHOTO, TINY, Model
from bench.server import Server
from contract.schema import ImagePreprocess
from tidegate.stack import Ports

_FIRST_PORT = {COUNTED: 18180, UNCOUNTED: 18190}  # of a gateway of one kind's own: HTTP, gRPC, metrics
_COUNTERS = ("gateway_requests_total", "inference_feature_bin_total")

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One kind under some loads.

    `awake` holds whatever must run meanwhile. `served` counts the samples that the servers behind it have answered, so
    that the load generator can be held against it; None where nothing counts.
    """

    model: str
    kind: Kind
    shapes: tuple[Shape, ...]
    awake: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    served: Callable[[], int] | None = None


def stack_cases(model: Model, ports: Ports, connections: Sequence[int]) -> Iterator[Case]:
    """Triton and the gateway, asked in every way that they share; and predict."""
    one_each = tuple(Shape(connections=num) for num in sorted(connections))
    served = partial(
        metric_sum, f"http://{HOST}:{ports.triton_metrics}/metrics", "nv_inference_count", f'model="{model.name}"'
    )
    if model.name != PHOTO:
        multiplexed = (*one_each, Shape(connections=1, streams=max(connections)))
        for who, http, grpc in (("triton", ports.triton, ports.triton_grpc), ("gateway", ports.http, ports.grpc)):
            url = f"http://{HOST}:{http}/v2/models/{model.name}/infer"
            for kind, shapes in (
                (v2_json(f"{who}-json", url, model), one_each),
                (v2_binary(f"{who}-binary", url, model), one_each),
                (v2_grpc(f"{who}-grpc", f"{HOST}:{grpc}", model), tuple(dict.fromkeys(multiplexed))),
            ):
                yield Case(model=model.name, kind=kind, shapes=shapes, served=served)
    if isinstance(model.contract.preprocess, ImagePreprocess):
        kind = predict(f"http://{HOST}:{ports.http}/v1/models/{model.name}/predict", model)
        yield Case(model=model.name, kind=kind, shapes=one_each, served=served)
    if model.name == PHOTO:
        for loop in ("loop-one", "loop-all"):
            yield Case(model=model.name, kind=LoopKind(id=loop, model=model), shapes=(Shape(connections=1),))


def counting_case(kind: str, model: Model, server: Server, connections: int) -> Case:
    """One of the two gateways that differ in counting alone; on the tiny model, where counting weighs most."""
    assert model.name == TINY
    url = f"http://{HOST}:{_FIRST_PORT[kind]}/v2/models/{model.name}/infer"
    return Case(
        model=model.name,
        kind=v2_json(kind, url, model),
        shapes=(Shape(connections=connections),),
        awake=server.awake,
    )


def peer_case(peer: Peer, model: Model, server: Server, connections: Sequence[int]) -> Case:
    """A peer, asked in its own way."""
    shapes = tuple(Shape(connections=num) for num in sorted(connections))
    return Case(model=model.name, kind=peer.kind(model), shapes=shapes, awake=server.awake)


def gateway_apart(kind: str, repository: Path, ports: Ports, num_processes: int, log: Path) -> Server:
    """A gateway of its own before the stack's Triton, told to count or not to."""
    http = _FIRST_PORT[kind]
    return Server(
        name="the gateway that counts" if kind == COUNTED else "the gateway that doesn't count",
        command=[sys.executable, "-m", "gateway"],
        environment={
            "TIDEGATE_COUNTING": "true" if kind == COUNTED else "false",
            "TIDEGATE_PROCESSES": str(num_processes),
            "TIDEGATE_REPOSITORY": str(repository),
            "TIDEGATE_TRITON": f"{HOST}:{ports.triton_grpc}",
            "TIDEGATE_HTTP_PORT": str(http),
            "TIDEGATE_GRPC_PORT": str(http + 1),
            "TIDEGATE_METRICS_PORT": str(http + 2),
        },
        log=log,
    )


def why_not_as_told(kind: str, num_processes: int) -> str:
    """Why such a gateway is no measure of what counting costs; empty if it is one."""
    urls = [f"http://{HOST}:{_FIRST_PORT[kind] + 2 + i}/metrics" for i in range(num_processes)]
    try:
        nums = [sum(metric_sum(url, name) for url in urls) for name in _COUNTERS]
    except LoadError as exc:
        return str(exc)
    if kind == COUNTED:
        return "" if all(nums) else f"it has counted {nums[0]} requests and the bins of {nums[1]} features"
    return f"told not to count, it has counted {sum(nums)} times all the same" if any(nums) else ""


def metric_sum(url: str, name: str, labels: str = "") -> int:
    """Sum over the series of a metric whose labels hold the text `labels`, as one exporter shows it now."""
    try:
        with _DIRECT.open(url, timeout=5) as answer:
            text = answer.read().decode()
    except OSError as exc:
        raise LoadError(f"the counters can't be read: {exc}") from exc
    series = re.finditer(rf"^{re.escape(name)}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    return round(sum(float(found[2]) for found in series if labels in found[1]))
