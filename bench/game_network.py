"""Where the tree search asks: a published model through the gateway, its graph in this process, or nobody.

The gateway is asked in the Open Inference Protocol over gRPC. A FEN becomes tokens by the contract's own preprocessing,
as it does in the gateway when a person sends one.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from bench.error import BenchError, WrongAnswer
from contract import Contract
from contract.preprocess import preprocessor
from contract.schema import ClassificationPostprocess

TIMEOUT_S = 30.0

_TIE = 1e-6  # of a logit or a value: orders what is equally good, and outweighs nothing that a search finds

Array = NDArray[Any]


class Position:
    """How one published version takes a position and names its moves; raises BenchError for a model of another kind."""

    def __init__(self, contract: Contract, folder: Path) -> None:
        prepare = preprocessor(contract, folder)
        post = contract.postprocess
        if prepare is None or not isinstance(post, ClassificationPostprocess) or len(contract.outputs) != 2:
            raise BenchError(
                f"expected a model that takes positions as text and answers moves and a value, got {contract.name}: "
                "train one with `tidegate train chess-policy-value`"
            )
        self.columns: Mapping[str, int] = {label: i for i, label in enumerate(post.labels)}
        self.outputs = (post.tensor, *(spec.name for spec in contract.outputs if spec.name != post.tensor))
        self.input = contract.inputs[0]
        self.model = contract.name
        self.graph = folder / "model.onnx"
        self._prepare = prepare

    def tokens(self, fens: Sequence[str]) -> Array:
        """The model's input `[N, ...]`."""
        return self._prepare(fens).tensors[self.input.name]


class ServedNetwork:
    """A model behind a gateway."""

    def __init__(self, position: Position, address: str) -> None:
        self.columns = position.columns
        self._position = position
        self._client = InferenceServerClient(address)

    async def ask(self, fens: Sequence[str]) -> tuple[Array, Array]:
        """One request; see Network."""
        position = self._position
        tokens = position.tokens(fens)
        tensor = InferInput(position.input.name, list(tokens.shape), position.input.datatype)
        tensor.set_data_from_numpy(tokens)
        try:
            answer = await self._client.infer(position.model, [tensor], client_timeout=TIMEOUT_S)
        except InferenceServerException as exc:
            raise BenchError(f"the gateway didn't answer what {position.model} thinks of a position: {exc}") from exc
        logits, values = (answer.as_numpy(name) for name in position.outputs)
        if logits is None or values is None or len(logits) != len(fens):
            raise WrongAnswer(f"expected {position.model} to answer moves and values of {len(fens)} positions")
        return logits, values[:, 0]

    async def close(self) -> None:
        """Hang up."""
        await self._client.close()


class LocalNetwork:
    """The same model's graph in ONNX Runtime, for trying the search without servers."""

    def __init__(self, position: Position) -> None:
        self.columns = position.columns
        self._position = position
        self._session = ort.InferenceSession(position.graph, providers=["CPUExecutionProvider"])

    async def ask(self, fens: Sequence[str]) -> tuple[Array, Array]:
        """One run of the graph; see Network."""
        tokens = {self._position.input.name: self._position.tokens(fens)}
        logits, values = await asyncio.to_thread(self._session.run, list(self._position.outputs), tokens)
        return np.asarray(logits), np.asarray(values)[:, 0]

    async def close(self) -> None:
        """Nothing to hang up."""


class NoNetwork:
    """The control: all moves are equally likely, all positions even. What a search plays with it, it found by itself.

    Between equal ones chance decides, or the search would play whichever the rules name first: g1h3 to begin with.
    """

    def __init__(self, columns: Mapping[str, int], rng: random.Random) -> None:
        self.columns = columns
        self._ties = np.random.default_rng(rng.getrandbits(64))

    async def ask(self, fens: Sequence[str]) -> tuple[Array, Array]:
        """Nothing is waited for; see Network."""
        await asyncio.sleep(0)  # lets the games go on that an answer came for
        logits = self._ties.uniform(-_TIE, _TIE, (len(fens), len(self.columns)))
        return logits, self._ties.uniform(-_TIE, _TIE, len(fens))
