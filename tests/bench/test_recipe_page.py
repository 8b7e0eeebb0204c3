from pathlib import Path

from bench.machine import Machine
from bench.page import END, mark
from bench.recipe import RecipeResult, RecipeRow
from bench.recipe_page import COMMAND, cells, write
from contract.schema import Metric
from training.recipe import find

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
MACHINE = Machine(date="2026-01-01", processor="a processor", num_cores=2, memory_gib=8, system="Linux", versions={})
ROW = RecipeRow(
    recipe="r", model="m", task="t", data="some texts", num_parameters=12_345, flops_per_sample=2_000_000,
    training_time_s=61.4,
    metrics=(Metric(name="recall_at_10", value=0.25, low=0.2, high=0.3, num_samples=100),
             Metric(name="ndcg_at_10", value=0.125, low=0.1, high=0.15, num_samples=100)),
    larger_is_better=True, baselines={"popularity": 0.1, "neighbours": 0.3}, graph_bytes=2048,
    engine_bytes=3 * 2**20, latency_ms=1.25,
)  # fmt: skip


def test_a_row_says_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    (tmp_path / "recipes.md").write_text(f"# Recipes\n\n{mark(COMMAND)}\n{END}\n")
    other = ROW.model_copy(update={"recipe": "s", "engine_bytes": None, "latency_ms": None, "baselines": {}})

    write(RecipeResult(machine=MACHINE, lane="nobody", rows=(ROW, other), failures={"x": "no data"}), tmp_path)

    page = (tmp_path / "recipes.md").read_text()
    measured = "recall at 10 0.2500 (0.2000 to 0.3000); ndcg at 10 0.1250 (0.1000 to 0.1500)"
    head = f"m | some texts | 12,345 | 2.0 | 61 s | {measured}"
    assert f"| r | {head} | popularity 0.1000, **neighbours 0.3000** | 2 KiB | 3.0 MiB | 1.2 ms |" in page
    assert f"| s | {head} | none | 2 KiB | none | not measured |" in page
    assert "**" not in cells(ROW.model_copy(update={"larger_is_better": False, "baselines": {"popularity": 0.3}}))[7]
    assert "Not there: x: no data." in page
    assert (tmp_path / "recipes.png").stat().st_size > 5_000


def test_every_row_of_the_page_is_of_the_network_that_its_recipe_has_now() -> None:
    table = PAGE.read_text(encoding="utf-8").partition("| --- |")[2].partition("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines()[1:]]
    assert rows
    shown = {row[0].removeprefix("| "): row[3] for row in rows}
    now = {name: f"{sum(p.numel() for p in find(name).network().parameters()):,}" for name in shown}
    assert shown == now
