"""Distillation: a network learns from a published version's answers beside the labels.

The teacher is the version's own graph in ONNX Runtime, and sees the samples as the network does, augmented.
Sources: Hinton, Vinyals & Dean 2015, arXiv 1503.02531 (section 2: the temperature, and its square before the loss);
Beyer et al. 2021, arXiv 2106.05237 (teacher and student see the same view).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it
from torch import Tensor

from contract.error import ContractError
from contract.repository import Repository
from contract.schema import ClassificationPostprocess, Contract
from training.error import RunMismatch

if TYPE_CHECKING:
    from training.recipe import Recipe

_TINY = 1e-12

# Inputs of a batch and the network's outputs for it to the loss that the teacher adds.
TeacherLoss = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """A published classifier to learn from.

    `alpha` is the share of its loss beside the labels'. A higher `temperature` shows more of what it makes of the
    labels that aren't the likeliest.
    """

    repository: Path
    model: str
    version: int
    temperature: float = 4.0
    alpha: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a share that isn't one, and a temperature that turns answers round."""
        if not 0 < self.alpha <= 1 or self.temperature <= 0:
            raise ValueError(f"expected alpha above 0 and up to 1 and a temperature above 0, got {self}")

    def describe(self) -> dict[str, Any]:
        """Part of the run's identity: the version by its graph's digest, wherever it lies; raises RunMismatch."""
        digests = {artifact.role: artifact.sha256 for artifact in self._contract().artifacts}
        kept = {"model": self.model, "version": self.version, "temperature": self.temperature, "alpha": self.alpha}
        return {**kept, "sha256": digests.get("model")}

    def loss(self, recipe: "Recipe", num_threads: int) -> TeacherLoss:
        """The loss that it adds to a recipe's.

        Raises RunMismatch when it isn't there, was damaged, takes other inputs, or knows other labels.
        """
        contract = self._contract(verified=True)
        taught, known = recipe.postprocess, contract.postprocess
        if not (isinstance(taught, ClassificationPostprocess) and isinstance(known, ClassificationPostprocess)):
            raise RunMismatch(f"expected {self._name} and recipe {recipe.name} to classify, both of them")
        if known.labels != taught.labels:
            raise RunMismatch(f"{self._name} and recipe {recipe.name} have other labels: a teacher needs the same ones")
        if contract.inputs != recipe.inputs:
            raise RunMismatch(f"{self._name} and recipe {recipe.name} take other inputs: a teacher needs the same ones")
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        file = Repository(self.repository).version_dir(self.model, self.version) / _graph(contract)
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        names = [spec.name for spec in contract.inputs]
        place = [spec.name for spec in recipe.outputs].index(taught.tensor)

        def loss(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
            arrays = {name: tensor.cpu().numpy() for name, tensor in zip(names, inputs, strict=True)}
            (answer_NK,) = session.run([known.tensor], arrays)
            logits_NK = np.log(np.maximum(answer_NK, _TINY)) if known.activation == "identity" else answer_NK
            student_NK = outputs[place].float()
            return _distance(student_NK, torch.from_numpy(logits_NK).to(student_NK.device), self.temperature)

        return loss

    @property
    def _name(self) -> str:
        return f"{self.model} version {self.version}"

    def _contract(self, *, verified: bool = False) -> Contract:
        try:
            return Repository(self.repository).contract(self.model, self.version, verified=verified)
        except ContractError as exc:
            raise RunMismatch(f"the teacher can't be had: {exc}") from exc


def _graph(contract: Contract) -> str:
    for artifact in contract.artifacts:
        if artifact.role == "model" and artifact.path.endswith(".onnx"):
            return artifact.path
    raise RunMismatch(f"{contract.name} version {contract.version} has no ONNX graph: choose a teacher that has one")


def _distance(student_NK: Tensor, teacher_NK: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence in nats of the softened student from the softened teacher, times temperature²."""
    student, teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (student_NK, teacher_NK))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
