from pathlib import Path

import pytest

import monitoring
from monitoring.generated import generated_texts, write_generated
from monitoring.inventory import OPTIONAL, optional_metrics, undefined_records, used_metrics

FOLDER = Path(monitoring.__file__).parent


@pytest.mark.parametrize("name", sorted(generated_texts()))
def test_the_file_in_the_repository_is_what_the_code_makes(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == generated_texts()[name], "run `python -m monitoring`"


def test_only_files_that_differ_are_written(tmp_path: Path) -> None:
    assert sorted(write_generated(tmp_path)) == sorted(tmp_path / name for name in generated_texts())
    assert write_generated(tmp_path) == []

    (tmp_path / "prometheus.yml").write_text("old", encoding="utf-8")
    assert write_generated(tmp_path) == [tmp_path / "prometheus.yml"]


def test_every_recording_rule_that_is_read_is_recorded() -> None:
    assert undefined_records() == set()


def test_used_metrics_are_raw_names_of_our_exporters() -> None:
    used = used_metrics()

    assert {"gateway_requests_total", "inference_prediction_total", "nv_inference_exec_count", "model_info"} <= used
    assert "gateway_request_duration_seconds_bucket" in used
    assert all(name.startswith(("gateway_", "inference_", "model_", "nv_")) for name in used)
    assert not any(":" in name for name in used)


def test_what_is_optional_is_read_and_nothing_else_is() -> None:
    optional = optional_metrics()

    assert {prefix for prefix in OPTIONAL if any(name.startswith(prefix) for name in optional)} == set(OPTIONAL)
    assert not optional & used_metrics()
