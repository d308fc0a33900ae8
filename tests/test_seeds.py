import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from irlvla.acceptance import PREDICTED_NAMES
from irlvla.evaluate import rows_and_pairs, write_table

from .test_compare import table

ROOT = Path(__file__).resolve().parents[1]
specification = importlib.util.spec_from_file_location("seeds", ROOT / "benchmarks" / "seeds.py")
seeds = importlib.util.module_from_spec(specification)
specification.loader.exec_module(seeds)


@pytest.fixture
def runs(tmp_path):
    for seed in (1, 2):
        tables = {"imitation": table("imitation", np.full(12, 0.5)), "ppo": table("ppo", np.full(12, 0.5 + 0.1 * seed))}
        folder = tmp_path / str(seed)
        for name, one in tables.items():
            write_table(folder / "evaluation" / "test" / f"{name}.csv", one)
        reward = {name: {"auc": 0.8, "ece": 0.1 * seed} for name in PREDICTED_NAMES} | {"spearman": None}
        names = ("enrichment", "enrichment_exact", "enrichment_confidence", "enrichment_over_confidence")
        values = {"scenes": 12, "logs": 4, **rows_and_pairs(tables, seed), "reward_world_model": reward | dict.fromkeys(names, 1.0)}
        values |= {"subsets": {"late_onset": {"scenes": 12, **rows_and_pairs(tables, seed)}}, "wall_seconds": {"world": 100.0 * seed}}
        (folder / "evaluation" / "test" / "results.json").write_text(json.dumps(values))
        (folder / "stages.json").write_text(json.dumps({"evaluate": {"done": seed == 1}}))
    return tmp_path


def test_seeds_are_averaged_and_widen_the_interval(runs):
    found = seeds.together([runs / "1", runs / "2"], [1, 2])
    rows = {row["policy"]: row for row in found["rows"]}
    assert rows["ppo"]["epdms"] == pytest.approx(65.0) and rows["ppo"]["ci95"] == pytest.approx([60.0, 70.0])
    pair = next(pair for pair in found["pairs"] if pair["metric"] == "epdms")
    assert pair["difference"] == pytest.approx(15.0) and pair["ci95"] == pytest.approx([10.0, 20.0])
    assert found["reward_world_model"]["nc"]["ece"] == pytest.approx(0.15) and found["wall_seconds"]["world"] == 150.0
    page = seeds.document(found)
    assert "| ppo | 65.0 | 60.0 .. 70.0 |" in page and "late onset" in page and "+15.0 (+10.0 .. +20.0)" in page


def test_a_run_counts_when_its_evaluation_is_done(runs):
    assert seeds.complete(runs / "1") and not seeds.complete(runs / "2") and not seeds.complete(runs / "3")


def test_the_table_goes_between_the_markers():
    text = seeds.between((ROOT / "README.md").read_text(), "| a |\n")
    assert f"{seeds.BEGIN}\n| a |\n{seeds.END}" in text
