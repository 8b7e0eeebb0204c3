"""A published model, and what a gateway would observe of samples sent to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bench.error import BenchError
from contract import ContractError, Repository
from contract.embedding import Projection
from contract.observation import input_values, output_values, watched
from contract.postprocess import interpret
from contract.preprocess import text_preprocessor
from contract.profile import PREDICTION
from contract.schema import TextPreprocess

_BATCH = 500

Array = NDArray[Any]


class Published:
    """The newest version of a classifier; raises BenchError when there is none."""

    def __init__(self, repository: Path, model: str, recipe: str) -> None:
        try:
            published = Repository(repository)
            self.contract = published.latest(model)
        except ContractError as exc:
            raise BenchError(f"no {model} is published in {repository}: `tidegate train {recipe}` makes one") from exc
        self._folder = published.version_dir(model, self.contract.version)
        self._session = onnxruntime.InferenceSession(self._folder / "model.onnx", providers=["CPUExecutionProvider"])

    def encoded(self, texts: Sequence[str]) -> Array:
        """The input tensor `[N, L]` of texts, by the preprocessing that the gateway runs."""
        spec = self.contract.preprocess
        assert isinstance(spec, TextPreprocess)
        tensors = text_preprocessor(spec, self.contract.inputs, self._folder)(texts).tensors
        return tensors[self.contract.inputs[0].name]

    def look(self, samples: Array, labels: Array) -> tuple[Array, list[str], Array]:
        """Values `[N, F]` of what is observed of these samples, the features' names, and which answers were right."""
        contract, name = self.contract, self.contract.inputs[0].name
        outputs = [self._session.run(None, {name: samples[i : i + _BATCH]}) for i in range(0, len(samples), _BATCH)]
        tensors = {spec.name: np.concatenate([out[k] for out in outputs]) for k, spec in enumerate(contract.outputs)}
        meaning = interpret(contract.postprocess, tensors)
        assert meaning is not None
        values = input_values(contract.preprocess, {name: samples}, {})
        values |= output_values(contract.postprocess, watched(contract.postprocess, tensors))
        if (embedding := contract.profile.embedding) is not None:
            values |= Projection(embedding).values(tensors[embedding.tensor])
        columns = np.stack([np.asarray(value, float) for value in values.values()], axis=1)
        return columns, list(values), meaning.argmax(axis=1) == labels


def categorical(names: Sequence[str]) -> NDArray[np.bool_]:
    """Which of a classifier's features are categories: what was predicted."""
    return np.array([one == PREDICTION for one in names])
