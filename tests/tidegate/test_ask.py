"""Whatever a model takes is put to it in the form that it takes."""

import json
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tidegate.ask import predict
from tidegate.error import AskError, CommandError

MODELS = {
    "photos": {"predict": "/v1/models/photos/predict", "fields": ["image", "images"]},
    "mails": {"predict": "/v1/models/mails/predict", "fields": ["text", "texts"]},
    "loans": {"predict": "/v1/models/loans/predict", "fields": ["row", "rows"]},
    "raw": {"task": None, "infer": "/v2/models/raw/infer"},
}


class Gateway(BaseHTTPRequestHandler):
    """Describes its models, and answers with the path and the content that it was asked."""

    def do_GET(self) -> None:
        found = MODELS.get(self.path.removeprefix("/v1/models/"))
        self._answer(200 if found else 404, found or {"error": "unknown model"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = self.headers["Content-Type"]
        if kind.startswith("multipart/"):
            parts = BytesParser().parsebytes(b"Content-Type: %b\r\n\r\n%b" % (kind.encode(), body)).get_payload()
            content: Any = [part.get_payload() for part in parts]  # type: ignore[union-attr]
        else:
            content = json.loads(body)
        self._answer(200, {"path": self.path, "content": content})

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def asked(url: str, model: str, *items: str, version: str | None = None) -> tuple[str, Any]:
    answer = predict(url, model, version, items, 10)
    return answer["path"], answer["content"]


def test_image_files_are_sent_as_files(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("one")
    (tmp_path / "b.png").write_text("two")
    files = [str(tmp_path / "a.png"), f"@{tmp_path / 'b.png'}"]
    assert asked(url, "photos", *files) == ("/v1/models/photos/predict", ["one", "two"])
    assert asked(url, "photos", files[0], version="3")[0] == "/v1/models/photos/versions/3/predict"
    with pytest.raises(FileNotFoundError):
        asked(url, "photos", "nowhere.png")


def test_texts_are_taken_as_they_are_or_from_files(url: str, tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("from a file\n")
    assert asked(url, "mails", "as it is", f"@{tmp_path / 'mail'}")[1] == {"texts": ["as it is", "from a file\n"]}
    (tmp_path / "mail").write_bytes(b"\xff")
    with pytest.raises(CommandError, match="no text in UTF-8"):
        asked(url, "mails", f"@{tmp_path / 'mail'}")


def test_rows_are_json_objects_one_or_many_a_file(url: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"age": 2}\n\n{"age": 3}\n')
    (tmp_path / "rows.json").write_text('[{"age": 4}, {"age": 5}]')
    items = ('{"age": 1}', f"@{tmp_path / 'rows.jsonl'}", f"@{tmp_path / 'rows.json'}")
    assert asked(url, "loans", *items)[1] == {"rows": [{"age": age} for age in (1, 2, 3, 4, 5)]}
    for wrong in ("age=1", "[1]", "3"):
        with pytest.raises(CommandError, match="expected rows as JSON objects"):
            asked(url, "loans", wrong)


def test_a_model_that_takes_tensors_or_isnt_there_is_said(url: str) -> None:
    with pytest.raises(CommandError, match="takes tensors"):
        asked(url, "raw", "x")
    with pytest.raises(AskError, match="answered 404: unknown model"):
        asked(url, "nothing", "x")
