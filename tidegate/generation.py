"""`tidegate generate`: a text gone on with, token by token, by a model whose state travels with its requests.

The model takes `ids`, the `cache` of what it has made of the text so far, and its `length`; it answers the `logits` of
what follows each token, and the `next_cache`, which the next request brings back. All requests name one version, for a
cache means nothing to another. Tensors travel in V2's binary form: as JSON the cache would take seconds.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from tidegate.error import AskError, CommandError
from tidegate.terminal import REPOSITORY, JsonOption, RepositoryOption

if TYPE_CHECKING:
    import httpx
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from contract import Contract

Tensors = dict[str, "NDArray[Any]"]
Step = Callable[[Tensors], Tensors]
"""One request: input tensors `[1, ...]` by name to the outputs asked for."""
Choose = Callable[["NDArray[Any]"], int]
"""From logits `[K]` to a token."""

_INPUTS, _OUTPUTS = {"ids", "cache", "length"}, {"logits", "next_cache"}
_EMPTY = "\n"  # where nothing is to be gone on with, a new paragraph is
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what part of a character's bytes is decoded to


def generate(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    text: Annotated[str, typer.Argument(help="What is gone on with.")] = "",
    gateway: Annotated[str, typer.Option(help="Address of the gateway.")] = "http://127.0.0.1:8080",
    tokens: Annotated[int, typer.Option(min=1, max=10_000, help="How many tokens are written.")] = 40,
    temperature: Annotated[
        float, typer.Option(min=0, max=10, help="0: always the likeliest token; 1: as likely as the model says.")
    ] = 0.8,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same text.")] = 0,
    version: Annotated[int | None, typer.Option(min=1, help="The newest one, unless it is said.")] = None,
    repository: RepositoryOption = REPOSITORY,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for the whole text.")] = 60.0,
    json_: JsonOption = False,
) -> None:
    """Go on with a text, as it comes.

    The tokenizer is read from the model's repository.

    Example: tidegate generate austen-gpt2 "It was a truth" --tokens 60 --seed 7
    """
    import httpx

    from contract import Repository
    from contract.tokenizer import load
    from tidegate.ask import key_header

    found = Repository(repository)
    contract = found.latest(model) if version is None else found.contract(model, version)
    check(contract)
    tokenizer = contract.artifact("tokenizer")
    if tokenizer is None:
        raise CommandError(f"{model} version {contract.version} carries no tokenizer, so its tokens can't be read")
    reader = load(found.version_dir(model, contract.version), tokenizer.path)
    deadline, started = time.monotonic() + timeout_s, time.monotonic()
    prompt = reader.encode(text or _EMPTY).ids
    with httpx.Client(base_url=gateway, trust_env=False, headers=key_header()) as client:
        asking = Asking(client, gateway, contract.name, contract.version, deadline)
        ids = written(asking, contract, prompt, sampler(temperature, seed), tokens)
        pieces = []
        for piece in decoded(reader, ids):
            pieces.append(piece)
            if not json_:
                typer.echo(piece if len(pieces) > 1 else text + piece, nl=False)
    if json_:
        seconds = round(time.monotonic() - started, 3)
        said = {"model": model, "version": contract.version, "prompt": text, "text": "".join(pieces)}
        typer.echo(json.dumps(said | {"tokens": tokens, "seconds": seconds}, ensure_ascii=False))
    else:
        typer.echo()


def check(contract: "Contract") -> None:
    """Raise CommandError for a model that isn't gone on with in this way."""
    inputs, outputs = ({spec.name for spec in specs} for specs in (contract.inputs, contract.outputs))
    if (inputs, outputs) != (_INPUTS, _OUTPUTS):
        raise CommandError(
            f"{contract.name} doesn't go on with texts: expected the inputs {', '.join(sorted(_INPUTS))} and the "
            f"outputs {', '.join(sorted(_OUTPUTS))}, got {', '.join(sorted(inputs))} and {', '.join(sorted(outputs))}"
        )


def sampler(temperature: float, seed: int) -> Choose:
    """Chooses the likeliest token at temperature 0, any by its chance at 1; in between, unlikely ones less often."""
    import numpy as np

    rng = np.random.default_rng(seed)

    def choose(logits_K: "NDArray[Any]") -> int:
        if temperature == 0:
            return int(logits_K.argmax())
        scaled = logits_K.astype(np.float64) / temperature
        chance = np.exp(scaled - scaled.max())
        return int(rng.choice(len(chance), p=chance / chance.sum()))

    return choose


def written(step: Step, contract: "Contract", prompt: Sequence[int], choose: Choose, num_tokens: int) -> Iterator[int]:
    """So many tokens after the prompt's, of which there is at least one, as they come.

    A text that has no more room in the cache is entered anew by its later half, as is a prompt that is too long.
    """
    import numpy as np

    cache_shape, room = contract.input("cache").shape, contract.input("ids").bounds()[0].max
    text, new = list(prompt), list(prompt)
    cache, length = np.zeros((1, *cache_shape), dtype=np.float32), 0
    for _ in range(num_tokens):
        if length + len(new) > room:
            new, length = text[-(room // 2) :], 0
        ids, used = np.array([new], dtype=np.int64), np.array([[length]], dtype=np.int64)
        answer = step({"ids": ids, "cache": cache, "length": used})
        cache, length = answer["next_cache"], length + len(new)
        new = [choose(answer["logits"][0, -1])]
        text += new
        yield new[0]


def decoded(tokenizer: "Tokenizer", ids: Iterator[int]) -> Iterator[str]:
    """The text of tokens as soon as it is certain: a character may be made of several."""
    seen: list[int] = []
    shown = ""
    for token in ids:
        seen.append(token)
        text = tokenizer.decode(seen)
        if not text.endswith(_UNFINISHED):
            yield text[len(shown) :]
            shown = text
    if seen and len(text) > len(shown):
        yield text[len(shown) :]


@dataclass(frozen=True, slots=True)
class Asking:
    """Puts one request after the other to a version, until the deadline, in monotonic seconds."""

    client: "httpx.Client"
    url: str
    model: str
    version: int
    deadline: float

    def __call__(self, tensors: Tensors) -> Tensors:
        """All outputs; raises AskError when the gateway can't be asked, refuses, or the time is over."""
        import httpx

        path = f"/v2/models/{quote(self.model, safe='')}/versions/{self.version}/infer"
        body, headers = _request(tensors)
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise AskError("the time for the whole text is over; give it more with --timeout, or ask for fewer tokens")
        try:
            answer = self.client.post(path, content=body, headers=headers, timeout=left_s)
        except httpx.TimeoutException:
            raise AskError(f"the gateway at {self.url} did not answer within {left_s:.1f} s") from None
        except httpx.HTTPError as exc:
            raise AskError(f"the gateway at {self.url} can't be reached ({exc}); `tidegate up` starts one") from None
        if answer.status_code != 200:
            raise AskError(f"the gateway at {self.url} answered {answer.status_code}: {answer.text:.200}")
        return _outputs(answer.content, answer.headers)


def _request(tensors: Tensors) -> tuple[bytes, dict[str, str]]:
    """A V2 request in binary form, answered in it too."""
    from contract.tensor import datatype_of, to_raw

    raws = {name: to_raw(array) for name, array in tensors.items()}
    inputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": datatype_of(array),
            "parameters": {"binary_data_size": len(raws[name])},
        }
        for name, array in tensors.items()
    ]
    text = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
    return b"".join((text, *raws.values())), headers


def _outputs(body: bytes, headers: "httpx.Headers") -> Tensors:
    from contract.tensor import from_raw

    try:
        at = int(headers["Inference-Header-Content-Length"])
        found: Tensors = {}
        for entry in json.loads(body[:at])["outputs"]:
            end = at + entry["parameters"]["binary_data_size"]
            found[entry["name"]] = from_raw(entry["name"], entry["datatype"], entry["shape"], body[at:end])
            at = end
    except (KeyError, TypeError, ValueError) as exc:
        raise AskError(f"expected binary tensors from the gateway, got something else ({exc!r:.120})") from exc
    return found
