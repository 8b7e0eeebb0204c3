"""Folders of runs, one a Job: made, found again by the pod that comes after, and removed when they are old."""

import os
from pathlib import Path

import pytest

from tidegate.retraining_run import MARKER, begin, main, tidy
from training.lock import exclusive


def job(volume: Path, name: str, started: int) -> Path:
    """The folder of a Job that started at that second, and trained."""
    folder = volume / "train" / name
    begin(folder)
    os.utime(folder / MARKER, (started, started))
    (folder / "fashion-resnet").mkdir()
    (folder / "fashion-resnet" / "lock").touch()
    (folder / "fashion-resnet" / "run.json").write_text("{}")
    return folder


def start(folder: Path, *options: str) -> int:
    return main([f"--runs={folder}", *options])


def there(volume: Path) -> set[str]:
    return {path.name for path in (volume / "train").iterdir()}


def test_a_volume_holds_the_last_few_jobs_runs_however_many_there_were(tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / "train" / f"train-{number}"
        assert start(folder) == 0
        os.utime(folder / MARKER, (number, number))

    assert there(tmp_path) == {"train-7", "train-8", "train-9"}


def test_a_pod_that_comes_back_finds_its_jobs_run_and_keeps_it(tmp_path: Path) -> None:
    old = job(tmp_path, "old", 1)
    for number in range(3):
        job(tmp_path, f"newer-{number}", 2 + number)

    assert start(old) == 0

    assert (old / "fashion-resnet" / "run.json").is_file()
    assert there(tmp_path) == {"old", "newer-1", "newer-2"}
    assert start(tmp_path / "train" / "next", "--keep=2") == 0
    assert there(tmp_path) == {"next", "old"}, "it was started last"


def test_what_is_removed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job(tmp_path, "old", 1)

    assert start(tmp_path / "train" / "new", "--keep=1") == 0
    assert capsys.readouterr().out == "removed the runs of old: the last 1 are kept\n"


def test_a_folder_in_which_a_process_trains_stays(tmp_path: Path) -> None:
    busy, idle = job(tmp_path, "busy", 1), job(tmp_path, "idle", 2)

    with exclusive(busy / "fashion-resnet" / "lock", "the run folder"):
        assert start(tmp_path / "train" / "new", "--keep=1") == 0
        assert there(tmp_path) == {"busy", "new"}
    assert (busy / "fashion-resnet" / "run.json").is_file()
    assert not idle.exists()
    assert start(tmp_path / "train" / "new", "--keep=1") == 0
    assert there(tmp_path) == {"new"}


def test_what_it_didnt_make_is_left_alone(tmp_path: Path) -> None:
    """Runs of several nodes, and of people, lie on the same volume."""
    (tmp_path / "train" / "by-hand" / "fashion-resnet").mkdir(parents=True)
    (tmp_path / "train" / "notes.txt").touch()
    (tmp_path / "fashion-resnet").mkdir()

    assert start(tmp_path / "train" / "new", "--keep=1") == 0

    assert there(tmp_path) == {"by-hand", "notes.txt", "new"}
    assert (tmp_path / "fashion-resnet").is_dir()


def test_a_removal_that_was_broken_off_is_ended(tmp_path: Path) -> None:
    half = job(tmp_path, "half", 1)
    half.rename(half.with_name(".removed-half"))

    begin(tmp_path / "train" / "new")
    assert tidy(tmp_path / "train" / "new", 3) == []
    assert there(tmp_path) == {"new"}


def test_a_folder_that_cant_be_made_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train").touch()

    assert start(tmp_path / "train" / "new") == 1
    assert capsys.readouterr().err == f"{tmp_path / 'train' / 'new'} can't be made: Not a directory\n"


def test_runs_that_cant_be_removed_keep_no_job_from_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = job(tmp_path, "old", 1)
    (old / "fashion-resnet" / "lock").unlink()
    (old / "fashion-resnet" / "lock").mkdir()

    assert start(tmp_path / "train" / "new", "--keep=1") == 0
    assert capsys.readouterr().err.endswith("can't be removed: Is a directory\n")
    assert there(tmp_path) == {"old", "new"}


def test_a_job_keeps_its_own_at_least(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="2"):
        start(tmp_path / "train" / "new", "--keep=0")
    assert "expected to keep 1 folder or more" in capsys.readouterr().err
