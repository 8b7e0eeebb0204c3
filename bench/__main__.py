"""`python -m bench`: the gateway beside Triton asked directly, in one run, in turns, as ratios.

It starts a stack of its own over the published models, asks with real test images, and stops. Nothing else should run
on the machine meanwhile: the load generator, the gateway and Triton share its cores.
"""

import argparse
import io
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import grpc.aio
import numpy as np
import orjson
import uvloop
from PIL import Image
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import service_pb2 as pb

from bench.load import Ask, Figures, http_connection, run_load
from contract import Repository
from contract.golden import Golden
from tidegate.stack import Ports, Stack

MODEL = "fashion-mnist"
PORTS = Ports(
    http=18080, grpc=18081, metrics=18082, triton=18000, triton_grpc=18001, triton_metrics=18002, prometheus=19090
)

Connect = Callable[[], Awaitable[Ask]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the gateway beside Triton alone.")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind, in turns")
    options = parser.parse_args()
    console = Console()
    image = Golden.load(Repository(options.repository).version_dir(MODEL, 1)).inputs["image"][:1]
    with tempfile.TemporaryDirectory() as state:
        stack = Stack(repository=options.repository, state=Path(state), ports=PORTS)
        try:
            stack.start()
            results = uvloop.run(_measure(_kinds(image), options, console))
            memory = {name: _resident_mib(stack.pid(name)) for name in ("gateway", "triton", "prometheus")}
        finally:
            stack.stop()
    for connections in options.connections:
        console.print(_table(connections, {kind: runs for (kind, n), runs in results.items() if n == connections}))
    console.print("resident memory:", ", ".join(f"{name} {mib:.0f} MiB" for name, mib in memory.items()))


def _kinds(image: np.ndarray[Any, Any]) -> dict[str, Connect]:
    """Every way to ask, the one that others are compared with first."""
    file = io.BytesIO()
    Image.fromarray(image[0, :, :, 0]).save(file, "PNG")
    tensor = {"name": "image", "shape": list(image.shape), "datatype": "UINT8", "data": image.ravel().tolist()}
    document, infer = orjson.dumps({"inputs": [tensor]}), f"/v2/models/{MODEL}/infer"
    predict = f"/v1/models/{MODEL}/predict"
    return {
        "Triton, gRPC": lambda: _grpc_connection(PORTS.triton_grpc, image),
        "Triton, HTTP JSON": lambda: http_connection("127.0.0.1", PORTS.triton, infer, "application/json", document),
        "gateway, gRPC": lambda: _grpc_connection(PORTS.grpc, image),
        "gateway, HTTP JSON": lambda: http_connection("127.0.0.1", PORTS.http, infer, "application/json", document),
        "gateway, predict PNG": lambda: http_connection("127.0.0.1", PORTS.http, predict, "image/png", file.getvalue()),
    }


async def _grpc_connection(port: int, image: np.ndarray[Any, Any]) -> Ask:
    # A subchannel pool of its own: otherwise all of a process's channels to one address share a connection.
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    infer = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=lambda message: message,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=image.shape)
    message = request.SerializeToString()

    async def ask() -> None:
        await infer(message, timeout=30)

    return ask


async def _measure(
    kinds: dict[str, Connect], options: argparse.Namespace, console: Console
) -> dict[tuple[str, int], list[Figures]]:
    results: dict[tuple[str, int], list[Figures]] = {}
    with console.status("") as status:
        for round_ in range(options.rounds):
            for connections in options.connections:
                for kind, connect in kinds.items():
                    status.update(f"round {round_ + 1} of {options.rounds}: {kind}, {connections} connections")
                    figures = await run_load(connect, connections, options.seconds)
                    results.setdefault((kind, connections), []).append(figures)
    return results


def _table(connections: int, results: dict[str, list[Figures]]) -> Table:
    table = Table("", "p50 ms", "p99 ms", "answers/s", "ratio (min to max)", box=None)
    table.title = (
        f"{connections} connection{'s' if connections > 1 else ''}, median of {len(next(iter(results.values())))}"
    )
    first = next(iter(results.values()))
    for kind, runs in results.items():
        ratios = [run.per_second / base.per_second for run, base in zip(runs, first, strict=True)]
        table.add_row(
            kind,
            f"{median(run.p50_ms for run in runs):.2f}",
            f"{median(run.p99_ms for run in runs):.2f}",
            f"{median(run.per_second for run in runs):,.0f}",
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        )
    return table


def _resident_mib(pid: int) -> float:
    """Resident memory of a process and its descendants; pages that they share are counted once for each."""
    status = Path(f"/proc/{pid}/status").read_text()
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own / 1024 + sum(_resident_mib(int(child)) for child in children)


if __name__ == "__main__":
    main()
