"""A text is gone on with through the gateway's own protocol, token by token, by a small network with a cache."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner

from contract import Contract
from contract.digest import artifact
from contract.profile import Profile
from contract.schema import (
    AxisRange,
    Evaluation,
    Provenance,
    Slo,
    TensorPostprocess,
    TensorPreprocess,
    TensorSpec,
)
from gateway.v2 import read_request, write_response
from tidegate.error import AskError, CommandError
from tidegate.generation import check, decoded, generate, sampler, written
from tidegate.terminal import in_one_sentence
from training.network.gpt import Gpt

PLACES, CACHE = 16, (2, 2, 2, 16, 8)
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def network() -> Gpt:
    """One token a byte; weights large enough that it has an opinion."""
    torch.manual_seed(5)
    gpt = Gpt(len(BYTES), PLACES, width=16, num_heads=2, num_layers=2, dropout=0.0).eval()
    for parameter in gpt.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return gpt


def tokenizer() -> Tokenizer:
    spelled = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(BYTES)}, merges=[]))
    spelled.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelled.decoder = decoders.ByteLevel()
    return spelled


def publish(root: Path, **others: Any) -> Contract:
    folder = root / "novelist" / "3"
    folder.mkdir(parents=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    told: dict[str, Any] = {
        "name": "novelist",
        "version": 3,
        "task": "text-generation",
        "inputs": (
            TensorSpec(name="ids", datatype="INT64", shape=(-1,), ranges=(AxisRange(min=1, opt=1, max=PLACES),)),
            TensorSpec(name="cache", datatype="FP32", shape=CACHE),
            TensorSpec(name="length", datatype="INT64", shape=(1,)),
        ),
        "outputs": (
            TensorSpec(name="logits", datatype="FP32", shape=(-1, len(BYTES))),
            TensorSpec(name="next_cache", datatype="FP32", shape=CACHE),
        ),
        "batch": AxisRange(min=1, opt=1, max=4),
        "preprocess": TensorPreprocess(),
        "postprocess": TensorPostprocess(),
        "slo": Slo(latency_threshold_ms=50, latency_objective=0.99, availability_objective=0.999),
        "profile": Profile(),
        "evaluation": Evaluation(dataset="none", split="test", metrics=()),
        "provenance": Provenance(
            created_at="2025-01-01T00:00:00+00:00", git_revision="unknown", libraries={}, seed=1,
            data_sha256="0" * 64, config={}, num_parameters=1, flops_per_sample=1, training_time_s=1,
        ),
        "artifacts": (artifact(folder, "tokenizer.json", "tokenizer"),),
    }  # fmt: skip
    contract = Contract(**(told | others))
    contract.save(folder)
    return contract


@dataclass
class Asked:
    """What the gateway was asked, and how it is to answer: as asked, with an error, or never."""

    paths: list[str] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    refuse: bool = False
    hang: threading.Event | None = None


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def url(asked: Asked) -> Iterator[str]:
    """A gateway that reads and writes by the gateway's own code, and answers by the network itself."""
    gpt = network()

    class Gateway(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if asked.hang is not None:
                asked.hang.wait(10)
            if asked.refuse:
                self._answer(503, b'{"error": "no version of it is ready"}', None)
                return
            request = read_request(body, self.headers["Inference-Header-Content-Length"])
            asked.paths.append(self.path)
            asked.num_tokens.append(request.tensors["ids"].shape[1])
            with torch.inference_mode():
                logits, cache = gpt(*(torch.tensor(request.tensors[name]) for name in ("ids", "cache", "length")))
            outputs = {"logits": logits.numpy(), "next_cache": cache.numpy()}
            self._answer(200, *write_response("novelist", "3", request, outputs))

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, status: int, body: bytes, header_length: int | None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if header_length is not None:
                self.send_header("Inference-Header-Content-Length", str(header_length))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def whole(prompt: list[int], num_tokens: int) -> list[int]:
    """The same text by computing all of it for every token."""
    gpt, text = network(), list(prompt)
    with torch.inference_mode():
        for _ in range(num_tokens):
            logits = gpt(torch.tensor([text]))
            assert isinstance(logits, torch.Tensor)
            text.append(int(logits[0, -1].argmax()))
    return text[len(prompt) :]


def test_a_prompt_is_entered_once_and_then_each_token(tmp_path: Path, url: str, asked: Asked) -> None:
    publish(tmp_path)
    app = typer.Typer()
    app.command()(in_one_sentence(generate))
    options = ["--gateway", url, "--repository", str(tmp_path), "--tokens", "6", "--temperature", "0"]
    said = CliRunner().invoke(app, ["novelist", "once", *options, "--json"])
    assert said.exit_code == 0, said.output
    document = json.loads(said.output)
    prompt = tokenizer().encode("once").ids
    assert document["text"] == tokenizer().decode(whole(prompt, 6))
    assert (document["prompt"], document["version"], document["tokens"]) == ("once", 3, 6)
    assert asked.num_tokens == [4, 1, 1, 1, 1, 1]
    assert set(asked.paths) == {"/v2/models/novelist/versions/3/infer"}
    assert CliRunner().invoke(app, ["novelist", "once", *options]).output == f"once{document['text']}\n"
    assert CliRunner().invoke(app, ["novelist", "", *options]).exit_code == 0
    assert asked.num_tokens[12] == 1  # of nothing, a line's end is made


def test_a_text_longer_than_the_cache_is_entered_anew(tmp_path: Path) -> None:
    contract, gpt, sizes = publish(tmp_path), network(), []

    def step(tensors: dict[str, Any]) -> dict[str, Any]:
        sizes.append(tensors["ids"].shape[1])
        assert tensors["length"] + sizes[-1] <= PLACES
        with torch.inference_mode():
            logits, cache = gpt(*(torch.tensor(tensors[name]) for name in ("ids", "cache", "length")))
        return {"logits": logits.numpy(), "next_cache": cache.numpy()}

    prompt = list(range(30))
    ids = list(written(step, contract, prompt, sampler(0, 0), 12))
    assert sizes == [8, *[1] * 8, 8, 1, 1]
    assert ids[:9] == whole(prompt[-8:], 9)
    assert ids[9:] == whole([*prompt, *ids[:9]][-8:], 3)


def test_the_seed_and_the_temperature_choose(tmp_path: Path) -> None:
    logits = np.log(np.array([0.1, 0.6, 0.3], dtype=np.float32))
    drawn = [sampler(1.0, seed)(logits) for seed in range(2_000)]
    assert np.allclose(np.bincount(drawn) / 2_000, [0.1, 0.6, 0.3], atol=0.04)
    assert {sampler(0, seed)(logits) for seed in range(9)} == {1}
    assert {sampler(0.05, seed)(logits) for seed in range(99)} == {1}
    one, other = sampler(1.0, 4), sampler(1.0, 4)
    assert [one(logits) for _ in range(20)] == [other(logits) for _ in range(20)]


def test_a_character_is_shown_when_it_is_whole() -> None:
    spelled = tokenizer()
    assert list(decoded(spelled, iter(spelled.encode("né £").ids))) == ["n", "é", " ", "£"]
    assert list(decoded(spelled, iter(spelled.encode("é").ids[:1]))) == ["\N{REPLACEMENT CHARACTER}"]
    assert list(decoded(spelled, iter([]))) == []


def test_what_goes_wrong_is_said_in_a_sentence(tmp_path: Path, url: str, asked: Asked) -> None:
    contract = publish(tmp_path)
    with pytest.raises(CommandError, match="doesn't go on with texts: expected the inputs cache, ids, length"):
        check(contract.model_copy(update={"inputs": contract.inputs[:1]}))
    asked.refuse = True
    with pytest.raises(AskError, match=r"answered 503: .*no version of it is ready"):
        generate("novelist", "a", gateway=url, repository=tmp_path)
    asked.hang, asked.refuse = threading.Event(), False
    with pytest.raises(AskError, match=r"did not answer within|time for the whole text is over"):
        generate("novelist", "a", gateway=url, repository=tmp_path, timeout_s=0.2)
    asked.hang.set()
    with pytest.raises(AskError, match="can't be reached"):
        generate("novelist", "a", gateway="http://127.0.0.1:1", repository=tmp_path)
