"""`tidegate replay`: a recorded data set sent through the gateway at a given pace, to see an alert come."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from tidegate.error import AskError, CommandError
from tidegate.terminal import JsonOption

if TYPE_CHECKING:
    import httpx

    from tidegate.recording import Recording

_UNITS_S = {"s": 1, "m": 60, "h": 3600}
_MAX_REQUESTS = 10_000_000
_MAX_IN_FLIGHT = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How many requests a second, how many in all, and from which one on they are shifted."""

    rate: float
    num_requests: int
    shift_from: int
    seed: int = 0


@dataclass(kw_only=True, slots=True)
class Sent:
    """What came of it, by HTTP status; `failed` got no answer at all."""

    statuses: Counter[int] = field(default_factory=Counter)
    failed: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def num_requests(self) -> int:
        """How many were sent."""
        return self.statuses.total() + self.failed


def replay(
    model: Annotated[str, typer.Argument(help="Name of the model, or of a route to it.")],
    data: Annotated[
        str, typer.Option(help="A recipe's test data, a .npz of input tensors, or a folder of images, .txt or .jsonl.")
    ],
    shift: Annotated[
        str | None, typer.Option(help="noise:0.1, location:0.5, scale:1.5, rotate:30 or blur:1.5; docs/drift.md.")
    ] = None,
    after: Annotated[str, typer.Option(help="How long traffic stays as it was before it shifts: 30s, 10m.")] = "0s",
    rate: Annotated[float, typer.Option(min=0.01, max=100_000, help="Requests a second.")] = 10.0,
    for_: Annotated[str, typer.Option("--for", help="How long: 90s, 10m, 2h.")] = "5m",
    protocol: Annotated[
        Literal["predict", "v2"], typer.Option(help="How tensors are sent; images may be sent as predict.")
    ] = "v2",
    url: Annotated[str, typer.Option(help="Address of the gateway.")] = "http://127.0.0.1:8080",
    data_dir: Annotated[Path | None, typer.Option(help="Folder that holds the recipe's data set.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the samples, which are drawn at random, and the noise.")] = 0,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds to wait for each answer.")] = 10.0,
    json_: JsonOption = False,
) -> None:
    """Send a recorded data set through the gateway at a given rate, shifted if asked, to see the drift alert come.

    Example: tidegate replay fashion-mnist --data fashion-resnet --shift rotate:30 --rate 20 --for 30m
    """
    from tidegate.recording import open_recording
    from tidegate.shift import parse_shift

    seconds, quiet = parse_duration(for_), parse_duration(after)
    pace = Pace(rate=rate, num_requests=max(round(seconds * rate), 1), shift_from=round(quiet * rate), seed=seed)
    if pace.num_requests > _MAX_REQUESTS:
        raise CommandError(f"expected at most {_MAX_REQUESTS} requests, got {pace.num_requests}: lower --rate or --for")
    changed = None if shift is None else parse_shift(shift)
    recording = open_recording(quote(model, safe=""), data, data_dir, changed, protocol, seed)
    console = Console(stderr=json_)
    with Progress(
        *Progress.get_default_columns()[:3], TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn(),
        console=console, transient=True,
    ) as bar:  # fmt: skip
        task = bar.add_task(f"asking {model}", total=pace.num_requests)
        sent = asyncio.run(send(url, recording, pace, timeout_s, lambda: bar.advance(task)))
    _report(console, sent, json_)
    if not sent.statuses[200]:
        raise AskError(f"the gateway at {url} answered nothing with 200: {sent.reason or dict(sent.statuses)}")


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `10m` or `2h`; raises CommandError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if match is None:
        raise CommandError(f"expected a time like 90s, 10m or 2h, got {text!r}")
    return float(match[1]) * _UNITS_S[match[2]]


async def send(url: str, recording: "Recording", pace: Pace, timeout_s: float, on_done: Callable[[], object]) -> Sent:
    """Send samples drawn at random, each when its time has come, a bounded number of them at once.

    A gateway that is slower than the pace isn't overrun: it is asked as fast as it answers, and `seconds` shows it.
    """
    import httpx
    import numpy as np

    from tidegate.ask import key_header

    sent, started = Sent(), time.monotonic()
    tickets = iter(range(pace.num_requests))
    limits = httpx.Limits(max_connections=_MAX_IN_FLIGHT)

    async def work(client: httpx.AsyncClient) -> None:
        for ticket in tickets:
            await asyncio.sleep(max(started + ticket / pace.rate - time.monotonic(), 0))
            chosen = int(np.random.default_rng((pace.seed, ticket)).integers(recording.num_samples))
            request = recording.request(chosen, ticket >= pace.shift_from)
            await _ask(client, request.path, request.body, request.content_type, sent)
            on_done()

    async with (
        httpx.AsyncClient(
            base_url=url, timeout=timeout_s, limits=limits, trust_env=False, headers=key_header()
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(min(_MAX_IN_FLIGHT, pace.num_requests)):
            group.create_task(work(client))
    sent.seconds = time.monotonic() - started
    return sent


async def _ask(client: "httpx.AsyncClient", path: str, body: bytes, content_type: str, sent: Sent) -> None:
    import httpx

    try:
        answer = await client.post(path, content=body, headers={"content-type": content_type})
    except httpx.HTTPError as exc:
        sent.failed += 1
        sent.reason = str(exc) or type(exc).__name__
        return
    sent.statuses[answer.status_code] += 1
    if answer.status_code != 200:
        sent.reason = answer.text[:200]


def _report(console: Console, sent: Sent, json_: bool) -> None:
    if json_:
        counted = {"num_requests": sent.num_requests, "statuses": sent.statuses, "failed": sent.failed}
        typer.echo(json.dumps({**counted, "seconds": sent.seconds, "reason": sent.reason}, indent=1))
        return
    pace = sent.num_requests / max(sent.seconds, 1e-9)
    console.print(
        f"{sent.num_requests} requests in {sent.seconds:.1f} s ({pace:.1f}/s): {sent.statuses[200]} answered",
        highlight=False,
    )
    if sent.reason:
        failed = sent.num_requests - sent.statuses[200]
        console.print(f"{failed} were not, the last because: {sent.reason}", markup=False, highlight=False)
