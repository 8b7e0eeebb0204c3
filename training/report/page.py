"""One HTML file that needs nothing else, no script, font or address: it can be mailed, and opened in twenty years.

It is rendered by jinja2 from `page.html`, with everything escaped that isn't made here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.durable import write_atomically
from training.report import figure
from training.report.findings import Findings
from training.report.quality import Quality, quality

PAGE_FILE = "report.html"
CURVES_FILE = "curves.png"

NUM_MISTAKES = 6
MAX_CONFUSION = 24  # labels; a larger table can't be read, its largest entries are listed then


def write(folder: Path, findings: Findings) -> tuple[Path, ...]:
    """Write the page, and the curves as PNG once an epoch has ended; the files that were written."""
    page = folder / PAGE_FILE
    write_atomically(page, render(findings).encode())
    if not findings.progress.epochs:
        return (page,)
    curves = folder / CURVES_FILE
    write_atomically(curves, figure.png(*_curves(findings).values()))
    return page, curves


def render(findings: Findings) -> str:
    """The page's text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "words": _words}
    judged = quality(findings)
    return environment.get_template("page.html").render(
        findings=findings,
        recipe=findings.recipe,
        epochs=findings.progress.epochs,
        judged=judged,
        state=_state(findings, judged),
        curves={name: figure.svg(name, draw) for name, draw in _curves(findings).items()},
        learned=_learned(findings),
        settings=_flat(findings.recipe.describe()),
        light=figure.LIGHT,
        dark=figure.DARK,
        max_confusion=MAX_CONFUSION,
        num_mistakes=NUM_MISTAKES,
    )


def _curves(findings: Findings) -> dict[str, figure.Draw]:
    epochs, steps = findings.progress.epochs, findings.steps
    drawn: dict[str, figure.Draw] = {}
    if epochs:
        losses, scores = [e.validation_loss for e in epochs], [e.validation_score for e in epochs]
        score_name = _words(findings.recipe.objective.score_name).capitalize()
        drawn["loss"] = figure.curve("Loss", [e.loss for e in epochs], losses, int(np.argmin(losses)))
        drawn["score"] = figure.curve(score_name, [e.score for e in epochs], scores, int(np.argmax(scores)))
    if len(steps) > 1:
        at = [step["step"] for step in steps]
        drawn["rate"] = figure.by_step("Learning rate", at, [step["learning_rate"] for step in steps])
        drawn["norm"] = figure.by_step("Gradient norm", at, [step["gradient_norm"] for step in steps], log=True)
    return drawn


def _state(findings: Findings, judged: Quality | None) -> tuple[str, str]:
    """The page's badge: its kind, and its words."""
    if judged is None:
        done, planned = len(findings.progress.epochs), findings.recipe.config.epochs
        return ("open", f"trained {done} of {planned} epochs, not judged yet")
    failed = sum(failure is not None for _, failure in judged.gates)
    if failed:
        return ("bad", f"{failed} of {len(judged.gates)} gates not passed")
    return ("good", "all gates passed") if judged.gates else ("open", "judged without a gate")


def _learned(findings: Findings) -> str:
    """What the curves say, in one sentence for everyone, and for those who can't see them."""
    epochs = findings.progress.epochs
    if not epochs:
        return "No epoch has ended yet."
    losses = [epoch.validation_loss for epoch in epochs]
    best = int(np.argmin(losses))
    said = f"The validation loss was lowest after epoch {best + 1} of {len(losses)}, at {losses[best]:.4f}"
    if best == len(losses) - 1:
        return f"{said}: it was still falling, so more epochs may help."
    gap = losses[-1] / losses[best] - 1 if losses[best] > 0 else 0.0
    return f"{said}, and ended {gap:.0%} above that, while the training loss went to {epochs[-1].loss:.4f}."


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = "none" if value is None else str(value)
    return flat


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def _words(name: str) -> str:
    return name.replace("_", " ")
