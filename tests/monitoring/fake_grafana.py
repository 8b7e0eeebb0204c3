"""The part of Grafana's HTTP API that boards are pushed by, as its documentation says, held in memory.

Source: https://grafana.com/docs/grafana/latest/developers/http_api/ (dashboard, folder, data_source, other)
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKENS = {"an-admin": "Admin", "an-editor": "Editor", "a-viewer": "Viewer"}
Answer = tuple[int, Any]


@dataclass
class Grafana:
    """What it holds, and how often it was told to change something."""

    folders: dict[str, dict[str, Any]] = field(default_factory=dict)
    datasources: dict[str, dict[str, Any]] = field(default_factory=dict)
    boards: dict[str, dict[str, Any]] = field(default_factory=dict)
    folder_of: dict[str, str] = field(default_factory=dict)
    num_changes: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, method: str, path: str, token: str, body: Any) -> Answer:
        if path == "/api/health":
            return 200, {"commit": "0", "database": "ok", "version": "11.0.0"}
        role = TOKENS.get(token)
        if role is None:
            return 401, {"message": "Invalid API key"}
        kind, _, uid = path.removeprefix("/api/").partition("/")
        if (kind == "datasources" and role != "Admin") or (method != "GET" and role == "Viewer"):
            return 403, {"message": "You'll need additional permissions to perform this action"}
        self.num_changes += method != "GET"
        handle = {"folders": self._folders, "datasources": self._datasources, "dashboards": self._boards}.get(kind)
        return handle(method, uid.removeprefix("uid/"), body) if handle else (404, {"message": "Not found"})

    def _folders(self, method: str, uid: str, body: Any) -> Answer:
        if method == "GET":
            return 200, list(self.folders.values())
        if any(folder["title"] == body["title"] for folder in self.folders.values()):
            return 409, {"message": "a folder with the same name already exists in the current location"}
        self.folders[body["uid"]] = {"id": len(self.folders) + 1, "uid": body["uid"], "title": body["title"]}
        return 200, self.folders[body["uid"]]

    def _datasources(self, method: str, uid: str, body: Any) -> Answer:
        if method == "POST":
            self.datasources[body["uid"]] = {**body, "id": 1, "orgId": 1, "version": 1, "readOnly": False}
            return 200, {"message": "Datasource added"}
        found = self.datasources.get(uid)
        if found is None:
            return 404, {"message": "Data source not found"}
        if method == "PUT":
            found |= {**body, "version": found["version"] + 1}
        return 200, found

    def _boards(self, method: str, uid: str, body: Any) -> Answer:
        if method == "GET":
            if uid not in self.boards:
                return 404, {"message": "Dashboard not found"}
            return 200, {"dashboard": self.boards[uid], "meta": {"folderUid": self.folder_of[uid]}}
        board = body["dashboard"]
        there, folder = self.boards.get(board["uid"]), body["folderUid"]
        if any(
            one["title"] == board["title"] and self.folder_of[other] == folder
            for other, one in self.boards.items()
            if other != board["uid"]
        ):
            return 412, {
                "status": "name-exists",
                "message": "A dashboard with the same name already exists",
            }
        if there is not None and not body["overwrite"] and board.get("version") != there["version"]:
            return 412, {"status": "version-mismatch", "message": "The dashboard has been changed by someone else"}
        version = there["version"] + 1 if there else 1
        self.boards[board["uid"]] = {**board, "id": 1, "version": version, "schemaVersion": 41}
        self.folder_of[board["uid"]] = folder
        return 200, {"status": "success", "uid": board["uid"], "version": version}


@contextmanager
def serving(grafana: Any) -> Iterator[Any]:
    """The object's `answer(method, path, token, body)` over HTTP on a free port of this machine, set as its `port`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            status, answer = grafana.answer(self.command, self.path.partition("?")[0], token, body)
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_POST(self) -> None:
            self.do_GET()

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        grafana.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield grafana
        finally:
            server.shutdown()
            thread.join(timeout=10)
