"""Comparing versions and going back, as a person sees it."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from contract import Contract, Repository
from contract.schema import ClassificationPostprocess
from tidegate.versioning import drawn, rollback, shown
from training.champion import compare_published
from training.comparison import Answers, Comparison, compare
from training.error import NotComparable

MakeVersion = Callable[..., Contract]


def comparison(num_labels: int) -> Comparison:
    """A challenger that has mended the first label, and nothing else."""
    labels = tuple(f"label {i}" for i in range(num_labels))
    postprocess = ClassificationPostprocess(tensor="logits", labels=labels)
    targets = np.arange(40 * num_labels) % num_labels
    worse = targets.copy()
    worse[np.flatnonzero(targets == 0)[:20]] = 1
    theirs, ours = (
        Answers(postprocess=postprocess, outputs={"logits": 4.0 * np.eye(num_labels)[said]})
        for said in (worse, targets)
    )
    return compare(1, theirs, ours, targets, meant=postprocess)


def printed(drawing: object) -> list[str]:
    console = Console(file=io.StringIO(), width=160)
    console.print(drawing)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_comparison_is_drawn_to_scale() -> None:
    lines = printed(shown(comparison(4), "bands", 2))
    assert lines[0].startswith("bands version 2 is better than version 1: accuracy +0.1250 (95 % interval +0.")
    assert "20 of 160 samples answered otherwise" in lines[0]
    accuracy = next(line for line in lines if "accuracy" in line and "0.8750" in line)
    assert accuracy.index("│") < accuracy.index("─") < accuracy.index("●") < accuracy.rindex("─")
    assert accuracy.endswith("better")
    mended, as_before = (next(line for line in lines if f"recall.label {i}" in line) for i in (0, 3))
    assert mended.endswith("better")
    assert as_before.endswith("same")
    assert mended.index("●") > as_before.index("●")


def test_of_many_labels_those_that_differ_most_are_shown() -> None:
    lines = printed(shown(comparison(40), "bands", 2))
    assert sum("recall." in line for line in lines) == 17
    assert any("recall.label 0 " in line for line in lines)
    assert lines[-1].strip() == "23 more differ less; --json holds them"


def test_what_cannot_be_compared_is_said() -> None:
    nothing = replace(comparison(4), differences=(), remarks=("version 1 preprocesses otherwise",))
    assert printed(shown(nothing, "bands", 2)) == [
        "bands version 2 is not compared with version 1: version 1 preprocesses otherwise"
    ]


def test_a_comparison_is_drawn_as_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(drawn(comparison(4), "bands", 2))
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height > 300  # two panels: shares, and the others


def test_a_version_that_no_recipe_made_has_nothing_to_be_compared_on(
    tiny_repository: Repository, make_version: MakeVersion
) -> None:
    make_version(tiny_repository.root, version=2)
    with pytest.raises(NotComparable, match="tiny version 2 was made by no recipe"):
        compare_published(tiny_repository, "tiny", 1, 2)


def test_going_back_says_how_to_undo_it(
    tiny_repository: Repository, make_version: MakeVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    make_version(tiny_repository.root, version=2)
    rollback("tiny", repository=tiny_repository.root)
    assert capsys.readouterr().out == (
        "tiny: version 1 is the newest that is served; withdrawn: 2 "
        "(tidegate models rollback tiny --to 2 brings it back)\n"
    )
    rollback("tiny", 2, repository=tiny_repository.root, json_=True)
    said = json.loads(capsys.readouterr().out)
    assert said == {"model": "tiny", "newest": 2, "served": [1, 2], "withdrawn": []}
