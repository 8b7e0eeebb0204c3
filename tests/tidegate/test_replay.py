import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from typer.testing import CliRunner, Result

from tidegate.error import CommandError
from tidegate.replay import parse_duration, replay
from tidegate.shift import parse_shift
from tidegate.terminal import in_one_sentence

app = typer.Typer()
app.command()(in_one_sentence(replay))

PIXELS = np.tile(np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1), (4, 1, 1, 1))


class Gateway:
    """Answers every request, after `refused` of them with 503, and remembers what came."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.refused = 0
        self.url = ""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    state = Gateway()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.asked.append((self.path, self.headers["content-type"], body))
            answer = b'{"error": "busy"}' if len(state.asked) <= state.refused else b"{}"
            self.send_response(503 if len(state.asked) <= state.refused else 200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nothing: what came is in `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def run(gateway: Gateway, *arguments: str | Path) -> Result:
    line = ["tiny", "--url", gateway.url, "--rate", "200", "--for", "0.1s", *map(str, arguments)]
    return CliRunner().invoke(app, line, env={"COLUMNS": "200"})


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, image=PIXELS)
    return path


def test_tensors_are_sent_as_v2_and_shift_when_the_time_has_come(gateway: Gateway, recorded: Path) -> None:
    result = run(gateway, "--data", recorded, "--shift", "scale:0", "--after", "0.05s", "--json")

    assert result.exit_code == 0, result.output
    sent = json.loads(result.stdout)
    assert (sent["num_requests"], sent["statuses"], sent["failed"]) == (20, {"200": 20}, 0)
    assert {path for path, _, _ in gateway.asked} == {"/v2/models/tiny/infer"}
    tensors = [json.loads(body)["inputs"][0] for _, _, body in gateway.asked]
    assert {(one["name"], one["datatype"], *one["shape"]) for one in tensors} == {("image", "UINT8", 1, 8, 8, 1)}
    assert sum(len(set(one["data"])) == 1 for one in tensors) == 10  # all pixels at the mean


def test_images_can_be_sent_as_files(gateway: Gateway, recorded: Path) -> None:
    result = run(gateway, "--data", recorded, "--protocol", "predict")

    assert result.exit_code == 0, result.output
    path, content_type, body = gateway.asked[0]
    assert (path, content_type) == ("/v1/models/tiny/predict", "image/png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(body))), PIXELS[0, :, :, 0])
    assert "20 requests in" in result.output


def test_a_folder_of_images_is_shifted_file_by_file(gateway: Gateway, tmp_path: Path) -> None:
    Image.fromarray(PIXELS[0, :, :, 0]).save(tmp_path / "a.png")
    assert run(gateway, "--data", tmp_path, "--shift", "noise:0.2", "--after", "0.05s").exit_code == 0

    images = [np.asarray(Image.open(io.BytesIO(body))) for _, _, body in gateway.asked]
    assert sum(np.array_equal(image, PIXELS[0, :, :, 0]) for image in images) == 10


def test_texts_and_rows_are_sent_as_they_are(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("good morning", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"age": 4}\n{"age": 5}\n', encoding="utf-8")
    assert run(gateway, "--data", tmp_path, "--for", "0.3s").exit_code == 0

    bodies = {body for _, _, body in gateway.asked}
    assert bodies == {b'{"text": "good morning"}', b'{"row": {"age": 4}}', b'{"row": {"age": 5}}'}


def test_what_wasnt_answered_is_counted_and_said(gateway: Gateway, recorded: Path) -> None:
    gateway.refused = 5
    result = run(gateway, "--data", recorded)
    assert result.exit_code == 0
    assert "15 answered" in result.output
    assert "5 were not" in result.output

    gateway.refused = 1_000
    result = run(gateway, "--data", recorded)
    assert result.exit_code == 1
    assert "answered nothing with 200" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--data", "no-such-recipe"), "expected one of the recipes"),
        (("--data", "."), "expected images"),
        (("--data", "FILE", "--shift", "sideways:1"), "expected a shift like"),
        (("--data", "FILE", "--shift", "noise"), "expected a shift like"),
        (("--data", "FILE", "--for", "soon"), "expected a time like"),
        (("--data", "FILE", "--for", "900h", "--rate", "90000"), "expected at most"),
    ],
)
def test_what_cant_be_replayed_is_one_sentence(
    gateway: Gateway, recorded: Path, arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"FILE": str(recorded), ".": str(empty)}
    result = run(gateway, *(places.get(one, one) for one in arguments))

    assert result.exit_code == 1
    assert said in " ".join(result.output.split())
    assert gateway.asked == []


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5_400), ("0s", 0)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(
    arrays(np.float32, st.tuples(st.integers(2, 20), st.integers(1, 4)), elements=st.floats(-100, 100, width=32)),
    st.floats(-3, 3),
)
def test_location_moves_by_standard_deviations(values: Any, size: float) -> None:
    moved = parse_shift(f"location:{size}")(values, np.random.default_rng(0))

    assert moved.dtype == values.dtype
    expected = values.astype(float) + size * values.astype(float).std()
    assert np.allclose(moved, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["noise:0.5", "location:3", "scale:9", "rotate:30", "blur:2"])
def test_images_stay_images(kind: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 10, 12, 3), dtype=np.uint8)
    changed = parse_shift(kind)(images, np.random.default_rng(2))

    assert changed.dtype == np.uint8
    assert changed.shape == images.shape
    assert not np.array_equal(changed, images)


def test_numbers_cant_be_rotated() -> None:
    with pytest.raises(CommandError, match="expected images"):
        parse_shift("rotate:30")(np.zeros((4, 3)), np.random.default_rng(0))
