from pathlib import Path

import pytest

from bench.engine import EngineResult, EngineRow, LatencyRow
from bench.engine_page import COMMAND, write
from bench.machine import Machine
from bench.page import END, mark

BEGIN = mark(COMMAND)

MACHINE = Machine(date="2026-01-01", processor="a processor", num_cores=2, memory_gib=8, system="Linux", versions={})


def row(**changes: object) -> EngineRow:
    fields = {"recipe": "r", "form": "FP16", "max_error": 1e-3, "metric": "accuracy", "metric_value": 0.9}
    return EngineRow.model_validate({**fields, "target": "sm_89", "build_time_s": 0.3, "size_bytes": 2048} | changes)


def result(*engines: EngineRow) -> EngineResult:
    latencies = tuple(
        LatencyRow(recipe="r", runtime=runtime, batch=batch, rounds_ms=(2.0, 1.0, 4.0))
        for runtime in ("torch, FP32", "ONNX Runtime, FP32", "ONNX Runtime, INT8")
        for batch in (1, 16)
    )
    return EngineResult(
        machine=MACHINE, libraries={"torch": "2"}, lane="TensorRT-RTX 1.7", engines=engines, latencies=latencies,
        failures={"other": "no published version"},
    )  # fmt: skip


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "engines.md").write_text(f"# Engines\n\n{BEGIN}\nold\n{END}\nlast words\n")
    return tmp_path


def test_the_figures_take_the_place_of_the_old_ones(docs: Path) -> None:
    refused = row(target="sm_75", refusal="FP32 GEMM is not supported")
    write(result(row(), refused, row(recipe="s", target="sm_75", refusal="FP32 GEMM is not supported")), docs)
    page = (docs / "engines.md").read_text()
    assert page.startswith(f"# Engines\n\n{BEGIN}\n\n")
    assert page.endswith(f"\n{END}\nlast words\n")
    assert "old" not in page
    assert "| r | FP16 | 1.0e-03 | accuracy 0.9000 | sm_89 | 0.30 s | 2 KiB |" in page
    assert "Refused: r FP16 for sm_75, s FP16 for sm_75: FP32 GEMM is not supported." in page
    assert "| torch, FP32 | 2.00 (1.00 to 4.00) | 2.00 (1.00 to 4.00) |" in page
    assert "No engine ran: there is no GPU here." in page
    assert "Not measured: other: no published version." in page
    assert (docs / "engines.png").stat().st_size > 10_000
    write(result(row(engine_error=1e-4)), docs)
    page = (docs / "engines.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1
    assert "No engine ran" not in page


def test_a_page_without_marks_is_left_alone(docs: Path) -> None:
    (docs / "engines.md").write_text("# Engines\n")
    with pytest.raises(ValueError, match="expected the marks"):
        write(result(row()), docs)
    assert (docs / "engines.md").read_text() == "# Engines\n"
