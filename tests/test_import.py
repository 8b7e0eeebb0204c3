"""The law of imports: contract <- training | serving | gateway | monitoring, and never between those four."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("contract", "training", "serving", "gateway", "monitoring")
HEAVY = {"torch", "onnx", "onnxruntime", "fastapi", "grpc", "tritonclient", "prometheus_client"}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_the_contract_and_themselves(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    forbidden = set(PACKAGES) - {"contract", package} | {"tidegate", "tests", "bench"}
    wrong = {str(file.relative_to(ROOT)): found for file in files if (found := set(imported(file)) & forbidden)}
    assert wrong == {}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.split(".")[0] for name in out.stdout.split()}


def test_the_contract_needs_nothing_heavy() -> None:
    modules = "contract.preprocess, contract.observation, contract.triton, contract.golden, contract.passport"
    assert loaded_by(f"import {modules}") & HEAVY == set()


def test_the_gateway_needs_no_torch() -> None:
    assert loaded_by("import gateway.server") & {"torch", "onnx", "onnxruntime", "training"} == set()


def test_the_command_line_imports_a_stage_only_when_it_runs() -> None:
    assert loaded_by("import tidegate.command") & (HEAVY | set(PACKAGES)) == set()
