import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from training import curve, run_folder
from training.error import Diverged, LockTimeout, RunFailed, RunMismatch, RunUnfinished
from training.loop import Trained, num_steps, train
from training.recipe import Recipe


def saved(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(folder / "bands/checkpoint.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
        progress = json.loads(file.metadata()["progress"])
    progress.pop("time_s")
    return tensors, progress


def train_in(folder: Path, recipe: Recipe, tiny: SimpleNamespace, **options: Any) -> Trained:
    dataset = recipe.load(None).limited(recipe.config.num_train)
    with run_folder.opened(folder, recipe, dataset) as opened:
        return train(recipe, dataset, opened, options.pop("watcher", tiny.Unwatched()), **options)


def changed(recipe: Recipe, **config: Any) -> Recipe:
    return dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, **config))


def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path: Path, run_tiny: Callable[..., Any]) -> None:
    """Killed after steps in the middle and at the ends of epochs, and in the middle of writing a checkpoint."""
    assert run_tiny("train", tmp_path / "whole", "") == {"end": "exit 0"}
    became = run_tiny("train", tmp_path / "killed", "1,8,10,21,36", 6_000)
    assert became.pop("end") == "exit 0"
    assert became.pop("writing") == "SIGXFSZ"
    assert set(became.values()) == {"SIGKILL"}
    assert_same_run(tmp_path, 40)


def test_so_it_does_with_everything_switched_on(tmp_path: Path, run_tiny: Callable[..., Any]) -> None:
    """AdamW, a falling line, FP16 with its loss scale, parts of a batch, clipping, an early stop, event files."""
    assert run_tiny("everything", tmp_path / "whole", "") == {"end": "exit 0"}
    became = run_tiny("everything", tmp_path / "killed", "1,8,10,21,30")
    assert became.pop("end") == "exit 0"
    assert set(became.values()) == {"SIGKILL"}
    tensors, progress = assert_same_run(tmp_path, 30)
    assert len(progress["epochs"]) == 3  # of six: the third was no better than the second
    assert [
        n for n in tensors if n.startswith("best.") and not torch.equal(tensors[n], tensors[f"network{n[4:]}"])
    ] == []
    for name in ("steps.jsonl", "layers.jsonl", "epochs.jsonl"):
        whole, killed = (curve.read(tmp_path / run / "bands" / name) for run in ("whole", "killed"))
        assert [without_time(line) for line in killed] == [without_time(line) for line in whole]
    steps = curve.read(tmp_path / "killed/bands/steps.jsonl")
    assert [line["step"] for line in steps] == list(range(1, 31))
    assert all(line["gradient_norm"] > 0 for line in steps)


def without_time(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "time_s"}


def assert_same_run(folder: Path, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, progress = saved(folder / "whole")
    killed_tensors, killed_progress = saved(folder / "killed")
    assert progress["step"] == step
    assert killed_progress == progress
    assert killed_tensors.keys() == tensors.keys()
    assert any(name.startswith("optimizer.") for name in tensors)
    for name, tensor in tensors.items():
        assert torch.equal(killed_tensors[name], tensor), name
    return tensors, progress


def test_it_learns_and_a_finished_run_is_left_as_it_is(tmp_path: Path, tiny: SimpleNamespace) -> None:
    first = train_in(tmp_path, tiny.RECIPE, tiny)
    assert (first.resumed_at, first.progress.step) == (0, 40)
    assert first.progress.epochs[-1].validation_score > 0.9
    again = train_in(tmp_path, tiny.RECIPE, tiny)
    assert again.resumed_at == 40
    assert again.progress == first.progress
    for before, after in zip(first.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(before, after)


def test_the_seed_decides_and_nothing_else_does(tmp_path: Path, tiny: SimpleNamespace) -> None:
    short = changed(tiny.RECIPE, epochs=1)
    torch.manual_seed(1)
    first = train_in(tmp_path / "a", short, tiny)
    torch.manual_seed(2)
    same = train_in(tmp_path / "b", short, tiny)
    other = train_in(tmp_path / "c", changed(short, seed=2), tiny)
    assert same.progress.epochs == first.progress.epochs
    assert other.progress.epochs != first.progress.epochs
    assert not torch.are_deterministic_algorithms_enabled()


def test_checkpoints_are_written_by_the_clock(tmp_path: Path, tiny: SimpleNamespace) -> None:
    written: list[int] = []
    file = tmp_path / "bands/checkpoint.safetensors"
    now = iter(range(1_000_000))

    def look(step: int) -> None:
        if file.exists() and (done := saved(tmp_path)[1]["step"]) not in written:
            written.append(done)

    train_in(
        tmp_path,
        changed(tiny.RECIPE, epochs=1),
        tiny,
        watcher=tiny.Unwatched(look),
        checkpoint_interval_s=6.0,
        clock=lambda: float(next(now)),
    )
    assert len(written) > 1
    assert all(step < 10 for step in written)
    assert saved(tmp_path)[1]["step"] == 10


def test_a_run_of_other_settings_refuses_to_go_on(tmp_path: Path, tiny: SimpleNamespace) -> None:
    train_in(tmp_path, changed(tiny.RECIPE, epochs=1), tiny)
    with pytest.raises(RunMismatch, match=r"train.seed was 1, is 2.*delete it"):
        train_in(tmp_path, changed(tiny.RECIPE, epochs=1, seed=2), tiny)
    other_data = dataclasses.replace(changed(tiny.RECIPE, epochs=1), load=lambda data_dir: tiny.load(data_dir, seed=1))
    with pytest.raises(RunMismatch, match="data_sha256 was"):
        train_in(tmp_path, other_data, tiny)
    other_network = dataclasses.replace(changed(tiny.RECIPE, epochs=1), network=lambda: nn.Linear(2, 2))
    with pytest.raises(RunMismatch, match="network was"):
        train_in(tmp_path, other_network, tiny)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"no json", b'{"machine": 3}'])
def test_a_damaged_run_folder_says_so(tmp_path: Path, tiny: SimpleNamespace, content: bytes) -> None:
    (tmp_path / "bands").mkdir()
    (tmp_path / "bands/run.json").write_bytes(content)
    with pytest.raises(RunMismatch, match="delete the folder"):
        train_in(tmp_path, tiny.RECIPE, tiny)


def test_a_damaged_checkpoint_says_so(tmp_path: Path, tiny: SimpleNamespace) -> None:
    train_in(tmp_path, changed(tiny.RECIPE, epochs=1), tiny)
    file = tmp_path / "bands/checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RunMismatch, match="no checkpoint of this recipe's network"):
        train_in(tmp_path, changed(tiny.RECIPE, epochs=1), tiny)
    (tmp_path / "bands/run.json").unlink()
    with pytest.raises(RunMismatch, match=r"no run\.json"):
        train_in(tmp_path, changed(tiny.RECIPE, epochs=2), tiny)


def test_one_process_a_run_folder(tmp_path: Path, tiny: SimpleNamespace) -> None:
    dataset = tiny.load()
    with (
        pytest.raises(RunUnfinished, match="train it first"),
        run_folder.opened(tmp_path, tiny.RECIPE, dataset, create=False),
    ):
        pass
    with run_folder.opened(tmp_path, tiny.RECIPE, dataset), pytest.raises(LockTimeout, match="in use"):
        train_in(tmp_path, tiny.RECIPE, tiny)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, tiny: SimpleNamespace) -> None:
    (tmp_path / "runs").write_bytes(b"a file")
    with pytest.raises(RunFailed, match="Not a directory"):
        train_in(tmp_path / "runs", tiny.RECIPE, tiny)


def test_a_loss_that_is_no_number_ends_it(tmp_path: Path, tiny: SimpleNamespace) -> None:
    with pytest.raises(Diverged, match=r"at step \d+ of 40, and blocks\S* is the first .* below 1e\+30"):
        train_in(tmp_path, changed(tiny.RECIPE, peak_learning_rate=1e30), tiny)


def test_less_than_a_batch_is_refused(tiny: SimpleNamespace) -> None:
    assert num_steps(tiny.CONFIG, 47) == (8, 2)
    with pytest.raises(ValueError, match="at least 16 training samples"):
        num_steps(tiny.CONFIG, 15)
