"""Learning from a published version: what it adds to the loss, and when it is no teacher."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation gives it

from contract.digest import artifact
from training import run_folder
from training.error import RunMismatch
from training.export import export
from training.group import Group
from training.learner import Learner, Samples
from training.recipe import Recipe
from training.teacher import Teacher


@pytest.fixture(scope="module")
def taught(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The tiny recipe, with a published version of itself to learn from."""
    root = tmp_path_factory.mktemp("teacher") / "models"
    folder = root / "bands/1"
    folder.mkdir(parents=True)
    contract = tiny.contract(1, folder)
    torch.manual_seed(7)
    export(tiny.network(), tiny.RECIPE.inputs, tiny.RECIPE.outputs, tiny.RECIPE.batch, folder / "model.onnx")
    files = (artifact(folder, "model.onnx", "model"),)
    contract.model_copy(update={"artifacts": files}).save(folder)
    teacher = Teacher(repository=root, model="bands", version=1, temperature=2.0, alpha=0.25)
    recipe: Recipe = dataclasses.replace(tiny.RECIPE, teacher=teacher, augment=None)
    return recipe


def test_its_answers_are_a_share_of_the_loss(taught: Recipe, tiny: SimpleNamespace, tmp_path: Path) -> None:
    """Held against the formula, with the teacher's own network in torch."""
    torch.manual_seed(7)
    teacher_network = tiny.network().eval()
    run = run_folder.Run(folder=tmp_path, num_threads=1, device="cpu")
    learned = Learner(taught, run, Group(), None)
    batch = Samples.of(taught.load(None).train, taught).batch(slice(0, 32), "cpu")
    assert isinstance(batch.targets, torch.Tensor)
    with torch.no_grad():
        # In training mode, as the update sees them; momentum 0 leaves the running statistics alone.
        learned.network.train()
        before = {name: tensor.clone() for name, tensor in learned.network.state_dict().items()}
        student_NK, teacher_NK = learned.network(*batch.inputs), teacher_network(*batch.inputs)
        learned.network.load_state_dict(before)
    soft = torch.softmax(teacher_NK / 2, dim=1)
    divergence_N = (soft * (soft.log() - torch.log_softmax(student_NK / 2, dim=1))).sum(dim=1)
    expected = 0.75 * F.cross_entropy(student_NK, batch.targets) + 0.25 * 4 * divergence_N.mean()
    assert learned.update(batch, 0, 10, watched=False).loss == pytest.approx(float(expected), abs=1e-5)


def test_it_belongs_to_the_runs_identity(taught: Recipe) -> None:
    described = taught.describe()["teacher"]
    assert (described["model"], described["version"], described["alpha"]) == ("bands", 1, 0.25)
    assert len(described["sha256"]) == 64


def test_one_that_cannot_teach_this_is_refused(taught: Recipe) -> None:
    assert taught.teacher is not None
    labels = taught.postprocess.model_copy(update={"labels": ("top", "bottom", "middle")})
    with pytest.raises(RunMismatch, match="have other labels"):
        taught.teacher.loss(dataclasses.replace(taught, postprocess=labels), 1)
    other = (taught.inputs[0].model_copy(update={"name": "picture"}),)
    with pytest.raises(RunMismatch, match="take other inputs"):
        taught.teacher.loss(dataclasses.replace(taught, inputs=other), 1)
    with pytest.raises(RunMismatch, match="the teacher can't be had"):
        dataclasses.replace(taught.teacher, version=9).describe()
    with pytest.raises(ValueError, match="alpha above 0"):
        dataclasses.replace(taught.teacher, alpha=0.0)


def test_one_that_was_damaged_is_refused(taught: Recipe) -> None:
    assert taught.teacher is not None
    file = taught.teacher.repository / "bands/1/model.onnx"
    whole = file.read_bytes()
    file.write_bytes(np.frombuffer(whole, np.uint8)[::-1].tobytes())
    try:
        with pytest.raises(RunMismatch, match="the teacher can't be had"):
            taught.teacher.loss(taught, 1)
    finally:
        file.write_bytes(whole)
