"""`tidegate drift` over a real Prometheus that holds what the rules would have recorded in the last day."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from bench.drift.backfill import open_metrics, prometheus_of
from bench.drift.evaluator import Labels
from monitoring.drift import WINDOWS
from monitoring.fast_lane import EVIDENCE_MAX, LIMIT, SAMPLES_MAX
from monitoring.reference import ALL_SAMPLES, RATIO
from tidegate.drift import DRIFTED, drift
from tidegate.terminal import in_one_sentence

pytestmark = pytest.mark.integration

STEP_S = 60
NUM = 26 * 60
BEGAN = NUM - 90  # minutes before the end: since when it drifts
HOUR, LONG = WINDOWS[0], WINDOWS[1]
app = typer.Typer()
app.command()(in_one_sentence(drift))


def run(*arguments: str, gateway: str = "http://127.0.0.1:9") -> Result:
    return CliRunner().invoke(app, [*arguments, "--url", gateway], env={"COLUMNS": "180"})


@pytest.fixture
def gateway() -> Iterator[str]:
    """Answers for one feature as a gateway does that keeps examples."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/v1/examples/m/versions/1?feature=x"
            example = {
                "bin": "19",
                "time": int(time.time()),
                "request_id": "id-7",
                "bins": {"x": "19", "calm": "03"},
                "inputs": {},
            }
            body = json.dumps({"examples": [example] if known else []}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def labels(feature: str, version: str = "1", **more: str) -> Labels:
    return (("model", "m"), ("version", version), ("feature", feature), *more.items())


def recorded(now: int) -> Iterator[str]:
    drifted = np.where(np.arange(NUM) < BEGAN, 1.0, 12.0)
    quiet, alarm = np.full(NUM, 1.5), np.where(np.arange(NUM) < BEGAN, 0.0, 12.0)
    ones = np.ones(NUM)
    bins = {("x", "00"): 0.1, ("x", "19"): 0.9, ("calm", "00"): 0.5, ("calm", "19"): 0.5}
    unseen = {labels("x", bin="missing"): ones * 30}
    values: dict[str, dict[Labels, Any]] = {
        "inference_feature_reference_samples": {labels("x"): ones * 5_000, labels("x", version="10"): ones * 5_000},
        ALL_SAMPLES: {labels(name): ones * 5_000 for name in ("x", "calm", "young")},
        RATIO: {labels(name, bin=b): ones * 0.5 for name, b in bins},
        HOUR.count: {labels(name, bin=b): ones * 600 * share for (name, b), share in bins.items()},
        HOUR.record(): {labels("x"): ones * 600, labels("calm"): ones * 600, labels("young"): ones * 60},
        HOUR.record("rows"): {labels("x"): ones * 630},
        HOUR.record("z"): {labels("x"): drifted, labels("calm"): quiet},
        HOUR.record("alarm_z"): {labels("x"): alarm, labels("calm"): ones * 0},
        HOUR.record("psi_unbiased"): {labels("x"): ones * 0.3, labels("calm"): ones * 0.001},
        HOUR.record("z", "model_version_feature_test"): {
            labels("x", test="chi2"): ones,
            labels("x", test="location"): -drifted,
            labels("calm", test="chi2"): quiet,
        },
        LONG.record("z"): {labels("x"): quiet, labels("calm"): ones * 1.2},
        LONG.record("alarm_z"): {labels("x"): ones * 0, labels("calm"): ones * 0},
        HOUR.unseen: unseen,
        HOUR.unseen_z: dict.fromkeys(unseen, ones * 7),
        EVIDENCE_MAX: {labels("young"): ones * 9, labels("calm"): ones * 2, labels("x", version="10"): ones * 3},
        SAMPLES_MAX: {labels("young"): ones * 60, labels("calm"): ones * 600, labels("x", version="10"): ones * 7},
        LIMIT: {(("model", "m"), ("version", version)): ones * 6.5 for version in ("1", "10")},
    }
    for name, series in values.items():
        yield from open_metrics(name, series, now - (NUM - 1) * STEP_S, STEP_S)


@pytest.fixture(scope="module")
def now() -> int:
    """When the recorded day ends: not at import, which is minutes before the tests of a whole run."""
    return int(time.time())


@pytest.fixture(scope="module")
def url(now: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with prometheus_of(recorded(now), tmp_path_factory.mktemp("prometheus")) as address:
        yield address


def test_it_says_which_feature_since_when_and_how_far(url: str, now: int) -> None:
    result = run("m", "--prometheus", url, "--version", "1", "--json")

    found = json.loads(result.output)
    assert result.exit_code == DRIFTED
    assert (found["model"], found["version"], found["alarms"]) == ("m", "1", True)
    x, calm, young = found["features"]
    assert (x["feature"], x["alarms"], x["z"], x["test"], x["window"]) == ("x", True, 12, "location", "1h")
    assert abs(x["since"] - (now - 89 * 60)) <= 120
    assert x["moved"][0] == {"bin": "00", "reference": 0.5, "now": pytest.approx(0.1)}
    assert x["psi_unbiased"] == pytest.approx(0.3)
    assert x["history"][0] == 1.5  # of the longer window, which shows more then
    assert x["history"][-1] == 12
    assert (calm["alarms"], calm["since"], calm["z"]) == (False, None, 1.5)
    assert (young["feature"], young["z"], young["num_samples"]) == ("young", None, 60)
    (unseen,) = found["unseen"]
    assert (unseen["bin"], unseen["z"], unseen["alarms"]) == ("missing", 7, True)
    assert unseen["now"] == pytest.approx(30 / 630)
    assert "can't be reached" in found["no_examples"]


def test_it_draws_the_same_for_people(url: str) -> None:
    result = run("m", "--prometheus", url, "--version", "1")

    assert result.exit_code == DRIFTED
    lines = result.output.splitlines()
    (x,) = [line for line in lines if line.strip().startswith("x ") and "location" in line]
    assert "█" in x
    assert "location: 00 50.0% → 10.0%" in x
    assert "1 h 29 min" in x or "1 h 30 min" in x
    assert "young (60)" in result.output
    assert "missing" in result.output
    assert "FeatureDrift.md" in result.output


def test_the_fast_lane_has_a_line_where_it_runs(url: str) -> None:
    found = json.loads(run("m", "--prometheus", url, "--version", "1", "--json").output)
    young, calm = found["early"]
    assert found["limit_evidence"] == 6.5
    assert young == {"feature": "young", "evidence": 9, "num_samples": 60, "alarms": True}
    assert (calm["feature"], calm["alarms"]) == ("calm", False)

    drifted, quiet = (run("m", "--prometheus", url, "--version", version).output for version in ("1", "10"))
    assert "fast lane: above its limit of 6.5: young 9.0 of 60 samples" in drifted
    assert "fast lane: nothing above its limit of 6.5; most has x, 3.0" in quiet


def test_where_none_runs_nothing_is_said_of_it(tmp_path: Path) -> None:
    references = {labels("x"): np.full(5, 5_000.0)}
    past = open_metrics("inference_feature_reference_samples", references, int(time.time()) - 240, STEP_S)
    with prometheus_of(past, tmp_path) as url:
        assert json.loads(run("m", "--prometheus", url, "--json").output)["early"] == []
        assert "fast lane" not in run("m", "--prometheus", url).output


def test_of_an_embedding_people_see_what_alarms_and_the_surest_of_the_rest(tmp_path: Path) -> None:
    z = {f"embedding.cosine{k}": 1.0 + k / 10 for k in range(1, 8)} | {"x": 0.5, "embedding.norm": 9.0}
    ones = np.ones(5)
    values = {
        "inference_feature_reference_samples": dict.fromkeys(z, 5_000.0),
        ALL_SAMPLES: dict.fromkeys(z, 5_000.0),
        HOUR.record(): dict.fromkeys(z, 600.0),
        HOUR.record("z"): z,
        HOUR.record("alarm_z"): dict.fromkeys(z, 0.0) | {"embedding.norm": 9.0},
    }
    past = (
        line
        for name, each in values.items()
        for line in open_metrics(name, {labels(f): v * ones for f, v in each.items()}, int(time.time()) - 240, STEP_S)
    )
    with prometheus_of(past, tmp_path) as url:
        output = run("m", "--prometheus", url).output
        found = json.loads(run("m", "--prometheus", url, "--json").output)
    shown = [line.split()[0] for line in output.splitlines() if line.strip().startswith(("embedding.", "x "))]
    assert shown == ["embedding.norm", "embedding.cosine7", "embedding.cosine6", "embedding.cosine5", "x"]
    assert "and 4 more of the embedding, all below those" in output
    assert len(found["features"]) == 9


def test_it_asks_the_gateway_which_requests_show_it(url: str, gateway: str) -> None:
    result = run("m", "--prometheus", url, "--version", "1", gateway=gateway)
    assert "requests that show x" in result.output
    assert "id-7" in result.output
    assert "x 19, calm 03" in result.output

    found = json.loads(run("m", "--prometheus", url, "--version", "1", "--json", gateway=gateway).output)
    assert [example["request_id"] for example in found["examples"]["x"]] == ["id-7"]
    assert found["no_examples"] == ""


def test_without_a_version_it_is_the_newest_and_a_quiet_one_exits_with_0(url: str) -> None:
    result = run("m", "--prometheus", url, "--json")

    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["version"] == "10"
    assert json.loads(result.output)["alarms"] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody",), "Prometheus knows no reference of a model 'nobody'"),
        (("m", "--version", "7"), "expected one of the watched versions 1, 10 of m, got '7'"),
    ],
)
def test_what_isnt_watched_is_one_sentence(url: str, arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments, "--prometheus", url)

    assert result.exit_code == 1
    assert said in " ".join(result.output.split())


def test_so_is_a_prometheus_that_isnt_there(tmp_path: Path) -> None:
    result = run("m", "--prometheus", "http://127.0.0.1:9")

    assert result.exit_code == 1
    assert "Prometheus at http://127.0.0.1:9 can't be reached" in result.output
