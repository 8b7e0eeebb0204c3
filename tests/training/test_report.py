"""The page needs nothing but itself, says what the numbers say, and is written for a run in any state."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from contract import Repository
from contract.schema import ClassificationPostprocess, Provenance
from training import report
from training.checkpoint import Epoch, Progress
from training.comparison import Comparison
from training.evaluation import counted, evaluate
from training.gate import Gate
from training.parity import Parity
from training.report import Findings, figure
from training.report.page import render

EPOCHS = tuple(
    Epoch(loss=1 / n, score=1 - 1 / n, validation_loss=abs(n - 3) + 0.5, validation_score=1 - 1 / n)
    for n in range(2, 6)
)
PROGRESS = Progress(step=40, epochs=EPOCHS, time_s=1.0)
STEPS = [{"step": n, "learning_rate": 0.1 / n, "gradient_norm": 2.0 / n} for n in range(1, 41)]
VOID = {"meta", "br", "img", "path", "use", "link"}


class Page(HTMLParser):
    """What is in a page: elements by tag with their attributes, its text, and whether its tags are in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def says(self, words: str) -> bool:
        return words in " ".join(self.text.split())


@pytest.fixture
def begun(tiny: SimpleNamespace) -> Findings:
    return Findings(recipe=tiny.RECIPE, progress=PROGRESS, steps=STEPS)


@pytest.fixture
def judged(begun: Findings, tiny: SimpleNamespace) -> Findings:
    """Right but for the first sample, of which the network is sure that it is something else."""
    test = tiny.load().test
    logits = np.eye(3, dtype=np.float32)[test.targets] * 4
    logits[0] = np.eye(3)[(test.targets[0] + 1) % 3] * 20
    outputs = {"logits": logits}
    evaluation = evaluate("bands", "test", begun.recipe.postprocess, outputs, test.targets)
    return replace(begun, test=test, outputs=outputs, evaluation=evaluation)


def test_a_finished_page_needs_nothing_but_itself(judged: Findings) -> None:
    text = render(judged)
    page = Page(text)
    assert not page.all("script")
    assert not page.all("link")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    addresses = [a[name] for _, a in page.elements for name in ("src", "href", "xlink:href", "srcset") if name in a]
    assert addresses
    assert all(address and address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {f"#{name}" for name in ids} >= {a["href"] for a in page.all("a")}


def test_a_page_can_be_read_without_seeing_it(judged: Findings) -> None:
    page = Page(render(judged))
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert page.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in page.all("img"))
    assert all(a["aria-labelledby"] in ids for a in page.all("section"))
    assert all(a.get("aria-label") for a in page.all("figure") if a.get("role") == "img")
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))


def test_the_page_says_what_the_numbers_say(judged: Findings) -> None:
    page = Page(render(judged))
    num_test = len(judged.test or ())
    truth = (judged.test.targets if judged.test else np.array([]))[0]
    labels = ("top", "middle", "bottom")
    assert page.says("all gates passed")
    assert page.says(f"On {num_test} samples of bands's test split")
    assert page.says(f"{(num_test - 1) / num_test:.4f}")
    assert page.says(f"{labels[truth]} taken for {labels[(truth + 1) % 3]} (1).")
    assert page.says("The validation loss was lowest after epoch 2 of 4, at 0.5000")
    assert page.all("img")[0]["alt"] == f"Test sample 0: {labels[truth]}"


def test_a_gate_that_isnt_passed_is_told_with_its_reason(judged: Findings) -> None:
    recipe = replace(judged.recipe, gates=(Gate(metric="accuracy", at_least=0.9999), *judged.recipe.gates))
    page = Page(render(replace(judged, recipe=recipe)))
    assert page.says("1 of 2 gates not passed")
    assert page.says("expected a lower end of at least 0.9999")
    assert page.says("✓ passed: at least 0.8")


def test_words_from_outside_stay_words(judged: Findings) -> None:
    hostile = "<script>alert(1)</script>"
    postprocess = ClassificationPostprocess(tensor="logits", labels=(hostile, '"&', "c"))
    recipe = replace(judged.recipe, postprocess=postprocess, description=hostile)
    epochs = (*EPOCHS[:-1], replace(EPOCHS[-1], notes=(hostile,)))
    page = Page(render(replace(judged, recipe=recipe, progress=replace(PROGRESS, epochs=epochs))))
    assert not page.all("script")
    assert page.text.count(hostile) > 3


def test_an_unfinished_run_has_its_curves_already(begun: Findings, tmp_path: Path) -> None:
    page = Page(render(begun))
    assert page.says("trained 4 of 4 epochs, not judged yet")
    assert not page.says("Quality")
    assert len(page.all("svg")) == 4
    written = report.write(tmp_path, begun)
    assert [path.name for path in written] == ["report.html", "curves.png"]
    with Image.open(written[1]) as image:
        assert image.width > image.height > 500


def test_a_run_before_its_first_epoch_has_a_page_too(begun: Findings, tmp_path: Path) -> None:
    new = replace(begun, progress=Progress(), steps=())
    assert [path.name for path in report.write(tmp_path, new)] == ["report.html"]
    assert Page(render(new)).says("No epoch has ended yet.")


def test_what_came_after_the_evaluation_is_on_the_page(judged: Findings) -> None:
    provenance = Provenance(
        created_at="2025-01-01T00:00:00+00:00",
        git_revision="f" * 40,
        libraries={"torch": "2"},
        seed=1,
        data_sha256="a" * 64,
        config={},
        num_parameters=12_345,
        flops_per_sample=2_000_000,
        training_time_s=1.0,
    )
    parity = Parity(max_error=2e-6, batch_sizes=(1, 8), num_samples=96)
    told = replace(judged, parity=parity, provenance=provenance, version=7, comparison=Comparison(champion=6))
    page = Page(render(told))
    for words in ("bands version 7", "12,345", "2.0e-06", "f" * 40, "not compared with version 6"):
        assert page.says(words), words


def test_a_recipes_own_measure_finds_the_worst_and_the_slices(judged: Findings) -> None:
    assert judged.test is not None
    hits = np.ones(len(judged.test), dtype=bool)
    hits[5] = False
    page = Page(render(replace(judged, own=lambda outputs, targets: [counted("found", hits)])))
    assert not page.says("Confusion matrix")
    assert page.says("Found by what a sample looks like")
    assert page.all("img")[0]["alt"] == "Test sample 5: found: 0"


def test_a_run_in_its_folder_is_read_judged_and_found_published(tiny: SimpleNamespace, tmp_path: Path) -> None:
    tiny.train_in(tmp_path)
    folder = tmp_path / "bands"
    seen = report.of_run(folder, tiny.RECIPE)
    assert len(seen.progress.epochs) == 4
    assert [step["step"] for step in seen.steps] == list(range(1, 41))
    half = replace(seen, progress=replace(seen.progress, step=20, epochs=seen.progress.epochs[:2]))
    assert report.judged(half, folder, tiny.load()) is half
    found = report.judged(seen, folder, tiny.load())
    assert found.evaluation is not None
    assert found.evaluation.metric("accuracy").value > 0.8
    repository = Repository(tmp_path / "models")
    assert report.with_version(found, repository) is found
    version_dir = repository.version_dir("bands", 3)
    version_dir.mkdir(parents=True)
    tiny.contract(3, version_dir).save(version_dir)
    (version_dir / "report.json").write_text('{"parity": {"max_error": 1e-6, "batch_sizes": [1], "num_samples": 9}}')
    assert report.with_version(found, repository).version is None
    published = report.with_version(replace(found, progress=replace(found.progress, time_s=1.0)), repository)
    assert published.version == 3
    assert published.parity == Parity(max_error=1e-6, batch_sizes=(1,), num_samples=9)


def test_findings_are_whole(begun: Findings, tiny: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="all of test, outputs and evaluation"):
        replace(begun, test=tiny.load().test)


def test_figures_follow_the_theme_and_are_the_same_twice() -> None:
    draw = figure.curve("Loss", [2.0, 1.0], [3.0, 2.0], best=1)
    text = figure.svg("loss", draw)
    assert text == figure.svg("loss", draw)
    assert set(re.findall(r"var\(--(\w+)\)", text)) >= {"ink", "first", "second", "line", "muted"}
    assert not re.search(r"#[0-9a-f]{6}\b", text)
    assert ">validation</text>" in text
    assert Image.open(io.BytesIO(figure.png(draw))).format == "PNG"


@pytest.mark.parametrize("theme", [figure.LIGHT, figure.DARK], ids=["light", "dark"])
def test_every_text_can_be_told_from_its_ground(theme: dict[str, str]) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5, by the relative luminance of sRGB colours."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    for ground in ("ground", "panel"):
        for ink in ("ink", "muted", "first", "second", "good", "bad"):
            lighter, darker = sorted((luminance(theme[ink]), luminance(theme[ground])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (ink, ground)
