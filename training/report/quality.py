"""What the test split showed of a run, in the parts that the page has sections for."""

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from contract.postprocess import interpret
from contract.schema import ClassificationPostprocess, Evaluation, Metric, RegressionPostprocess
from contract.tensor import Tensors
from training.data import Split
from training.gate import Gate
from training.report import figure
from training.report.example import Shown, shower
from training.report.findings import Findings
from training.report.judgement import Classes, ConfidenceBin, Judgement, Slice, classes, judge, reliability, slices

NUM_EXAMPLES = 24
_MAX_POINTS = 1_000  # of a scatter plot: more only make the page heavy


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One of the samples that cost most."""

    index: int
    truth: str
    answer: str
    shown: Shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Gates come with why they weren't passed, slices with whether they are weak. What can't be said is empty."""

    gates: list[tuple[Gate, str | None]]
    metrics: list[Metric]
    whole: Metric | None = None
    slices: tuple[tuple[Slice, bool], ...] = ()
    examples: tuple[Example, ...] = ()
    classes: Classes | None = None
    reliability: tuple[ConfidenceBin, ...] = ()
    scatter: Markup | None = None


def quality(findings: Findings) -> Quality | None:
    """What the findings say of the test split; None before it was looked at."""
    test, outputs, evaluation, recipe = findings.test, findings.outputs, findings.evaluation, findings.recipe
    if test is None or outputs is None or evaluation is None:
        return None
    gates = [(gate, gate.failure(evaluation)) for gate in recipe.gates]
    judged = judge(recipe.postprocess, outputs, test.targets, findings.own)
    if judged is None:
        return Quality(gates=gates, metrics=list(evaluation.metrics))
    found = _classes(findings, outputs, test)
    bins = () if found is None else tuple(reliability(found))
    whole = judged.measure(np.ones(len(test), dtype=bool))
    parts = slices(judged, recipe.preprocess, test)
    return Quality(
        gates=gates,
        metrics=_metrics(evaluation, found),
        whole=whole,
        slices=tuple((part, judged.is_weak(part.metric, whole)) for part in parts),
        examples=tuple(_examples(findings, test, judged)),
        classes=found,
        reliability=bins,
        scatter=figure.svg("scatter", figure.reliability(bins)) if bins else _against(findings, outputs, test),
    )


def _classes(findings: Findings, outputs: Tensors, test: Split) -> Classes | None:
    spec = findings.recipe.postprocess
    if not isinstance(spec, ClassificationPostprocess) or findings.own is not None:
        return None
    return classes(spec, outputs, test.targets)


def _metrics(evaluation: Evaluation, found: Classes | None) -> list[Metric]:
    """Without the labels' own where they have a table of their own."""
    return [m for m in evaluation.metrics if found is None or not m.name.startswith("recall.")]


def _against(findings: Findings, outputs: Tensors, test: Split) -> Markup | None:
    spec = findings.recipe.postprocess
    if not isinstance(spec, RegressionPostprocess) or findings.own is not None:
        return None
    answers = interpret(spec, outputs)
    assert answers is not None
    draw = figure.against(test.targets.reshape(-1)[:_MAX_POINTS], answers[:_MAX_POINTS], spec.unit)
    return figure.svg("scatter", draw)


def _examples(findings: Findings, test: Split, judged: Judgement) -> list[Example]:
    show = shower(findings.recipe.preprocess, findings.tokenizer)
    found = []
    for index in judged.worst(NUM_EXAMPLES):
        truth, answer = judged.said(index)
        found.append(Example(index=index, truth=truth, answer=answer, shown=show(test.inputs, index)))
    return found
