"""What Prometheus scrapes: the text of all series, most of each line made when the series is, and not at each scrape.

A gateway of many models has hundreds of thousands of series, and a scrape takes the interpreter from the requests. The
library formats every label of every series each time; here a line is its head, kept, and a number.
Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4)
"""

import gzip
import socket
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_GZIP_LEVEL = 1  # a tenth of the size in a tenth of the time that the last per cent would take

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Lined(Collector):
    """A collector that gives its text itself."""

    @abstractmethod
    def lines(self) -> Iterable[str]:
        """Lines of all its families, their HELP and TYPE included, each with its end."""


class Registry(CollectorRegistry):
    """The library's registry, which also remembers who registered, in order."""

    def __init__(self) -> None:
        super().__init__()
        self._registered: list[Collector] = []

    def register(self, collector: Collector) -> None:
        """Add a collector."""
        super().register(collector)
        self._registered.append(collector)

    def unregister(self, collector: Collector) -> None:
        """Take a collector away."""
        super().unregister(collector)
        self._registered.remove(collector)

    def text(self) -> bytes:
        """All series in the text format."""
        return b"".join(self._parts())

    def _parts(self) -> Iterator[bytes]:
        for collector in list(self._registered):
            if isinstance(collector, Lined):
                yield "".join(collector.lines()).encode()
            else:
                yield generate_latest(collector)


def head(name: str, labels: Mapping[str, str]) -> str:
    """A line up to its number; labels in order, as the library writes them."""
    pairs = ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{pairs}}} " if pairs else f"{name} "


def title(name: str, kind: str, documentation: str) -> str:
    """The two lines that a family begins with."""
    return f"# HELP {name} {documentation.translate(_ESCAPES)}\n# TYPE {name} {kind}\n"


def start_exporter(host: str, port: int, registry: Registry) -> tuple[WSGIServer, threading.Thread]:
    """Serve the registry's text from threads; raises OSError when the port can't be had."""
    server = make_server(host, port, _app(registry), _server_class(host), _Silent)
    thread = threading.Thread(target=server.serve_forever, name="exporter", daemon=True)
    thread.start()
    return server, thread


def _app(registry: Registry) -> Callable[..., list[bytes]]:
    one_at_a_time = threading.Lock()  # two scrapers take turns: together they would leave the requests half as much

    def app(environ: Mapping[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
            return [b""]
        with one_at_a_time:
            body = registry.text()
        headers = [("Content-Type", CONTENT_TYPE)]
        if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
            body = gzip.compress(body, _GZIP_LEVEL)
            headers.append(("Content-Encoding", "gzip"))
        start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
        return [b""] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return app


def _server_class(host: str) -> type[WSGIServer]:
    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    return Server


class _Silent(WSGIRequestHandler):
    timeout = 30  # of a scraper that doesn't say what it wants

    def log_message(self, *_: object) -> None:
        pass
