"""Routes as `tidegate routes` shows them: those in force, and those of a file."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from gateway.route_file import RouteFile, describe
from gateway.shadow import Shadow
from tidegate import routing
from tidegate.error import AskError, CommandError

EXAMPLE = Path(__file__).parents[2] / "docs/routes.example.yaml"


def described(path: Path | None) -> dict[str, Any]:
    registry = CollectorRegistry()
    shadow = Shadow(registry)
    return describe(RouteFile.load(path, registry, on_change=shadow.prepare), shadow)


def shown(document: dict[str, Any]) -> list[str]:
    console = Console(width=160, force_terminal=False)
    with console.capture() as capture:
        console.print(routing.show(document))
    return [" ".join(line.split()) for line in capture.get().splitlines()]


def test_all_of_a_route_is_shown() -> None:
    document = described(EXAMPLE)
    document["loaded_at"] = "2026-01-02T03:04:05+00:00"
    assert shown(document) == [
        f"revision {document['revision']}, in force since 2026-01-02T03:04:05+00:00",
        "digits targets digits/3 95 %, digits/4 5 %",
        "rule x-beta is there: digits/4 100 %",
        "rule user-agent begins with Batch/: digits-small/newest 100 %, deadline 5000 ms, priority 9",
        "rule x-tenant is acme or initech: digits-acme/newest 100 %",
        "rule x-experiment is blue or green: digits/3 50 %, digits/4 50 %, sticky by x-tenant",
        "sticky by x-user",
        "deadline 500 ms",
        "priority 1",
        "fallback digits-small/newest then digits-tiny/2, after 200 ms",
        "shadow digits-large/1 gets 10 %: nothing compared yet",
    ]


def test_agreement_and_a_broken_edit_are_shown() -> None:
    document = described(EXAMPLE) | {"error": "line 3: [red] is no colour here"}
    document["routes"][0]["shadow"]["counts"] = {
        "agreed": 3, "disagreed": 1, "failed": 2, "dropped": 0, "top1_same": 7, "top1_different": 1,
    }  # fmt: skip
    lines = shown(document)
    assert lines[1] == "the file's last edit is not in force: line 3: [red] is no colour here"
    assert lines[-1] == (
        "shadow digits-large/1 gets 10 %: 75.00% of 4 agree, the first class in 87.50% of 8 samples, 2 failed"
    )


def test_without_a_file_it_is_said() -> None:
    assert shown(described(None)) == [
        "the gateway has no routes file",
        "no routes: each name is the model of that name",
    ]


def test_a_file_is_checked(tmp_path: Path) -> None:
    assert routing.check_file(EXAMPLE) == f"{EXAMPLE} can be used; it has 1 route: digits"
    (tmp_path / "routes.yaml").write_text("rotes: []")
    with pytest.raises(CommandError, match=r"routes\.yaml: line 1: unknown key 'rotes'"):
        routing.check_file(tmp_path / "routes.yaml")


@pytest.fixture
def answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server's address, and what it answers with: to be changed by the test."""
    answer: dict[str, Any] = {"status": 200, "body": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"] if self.path == "/v1/routes" else 500)
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", answer
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_gateway_is_asked(answers: tuple[str, dict[str, Any]]) -> None:
    url, answer = answers
    answer["body"] = json.dumps(described(EXAMPLE)).encode()
    assert routing.ask(url, 10)["routes"][0]["name"] == "digits"
    answer["body"] = b"<html>"
    with pytest.raises(AskError, match="no Tidegate gateway"):
        routing.ask(url, 10)
    answer["body"] = b"{}"
    with pytest.raises(AskError, match="without routes"):
        routing.ask(url, 10)
    answer |= {"status": 404, "body": b"{}"}
    with pytest.raises(AskError, match=r"answered 404: \{\}"):
        routing.ask(url, 10)


def test_a_gateway_that_cant_be_reached_is_named() -> None:
    with pytest.raises(AskError, match=r"the gateway at http://127\.0\.0\.1:9 can't be reached"):
        routing.ask("http://127.0.0.1:9", 10)
