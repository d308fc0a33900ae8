"""The benchmark of causes runs from a checkpoint to its tables, file and sheet."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from irlvla import run
from irlvla.model.policy import Policy

from .causes_world import made_world
from .stand_in import POLICY

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # they import each other by name
    specification = importlib.util.spec_from_file_location("causes_benchmark", BENCHMARKS / "causes.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_trained_policy_is_asked_and_drawn(benchmark, tmp_path, monkeypatch, capsys):
    made_world(tmp_path)
    torch.manual_seed(0)
    policy = Policy(POLICY)
    run.save(tmp_path / "run" / "imitation" / "checkpoint", {"policy": policy.state_dict()}, {"policy": POLICY}, {}, {})
    out, sheet = tmp_path / "out.json", tmp_path / "drawn" / "sheet.png"
    options = [
        "--run",
        tmp_path / "run",
        "--store",
        tmp_path / "store",
        "--draws",
        2,
        "--sheet",
        sheet,
        "--out",
        out,
        "--page",
        tmp_path / "page.md",
    ]
    monkeypatch.setattr(sys, "argv", ["causes.py", *map(str, options)])
    benchmark.main()
    told = json.loads(out.read_text())
    assert {"commit", "machine", "threads", "command"} <= set(told)
    assert told["found"] == {name: {"scenes": 1, "logs": 1, "with_others": 1} for name in ("lead", "red")}
    assert {(row["policy"], row["answer"]) for row in told["rows"]} == {("imitation", "plan"), ("imitation", "sight")}
    assert {(row["cause"], row["intervention"], row["control"]) for row in told["rows"]} == {
        ("lead", "masked", "elsewhere"), ("lead", "removed", "elsewhere"), ("lead", "removed", "other_removed"),
        ("red", "masked", "elsewhere"), ("red", "swapped", "elsewhere"), ("red", "swapped", "other_swapped"),
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "lead: 1 scenes of 1 logs" in printed and "green: 0 scenes of 0 logs" in printed and "imitation, plan" in printed
    page = (tmp_path / "page.md").read_text()
    assert (
        "lead: 1 scenes of 1 logs; red: 1 scenes of 1 logs" in page
        and "## imitation: sight" in page
        and "lead   masked   elsewhere" in page
    )
    assert [line.split(" | ")[1:4] for line in page.splitlines() if line.startswith("| imitation | ") and line.count("|") == 10] == [
        ["lead", "masked", "1"], ["lead", "removed", "1"], ["red", "masked", "1"], ["red", "swapped", "1"],
    ]  # fmt: skip
    (tmp_path / "page.md").unlink()
    monkeypatch.setattr(sys, "argv", ["causes.py", "--write-only", "--out", str(out), "--page", str(tmp_path / "page.md")])
    benchmark.main()
    assert (tmp_path / "page.md").read_text() == page
    with Image.open(sheet) as drawn:
        assert drawn.size[0] > 5 * 352


def test_a_bar_counts_the_first_threshold_against_elsewhere(benchmark):
    row = {
        "policy": "ppo", "cause": "red", "intervention": "masked", "control": "elsewhere", "subset": "all", "cases": 40,
        "counts": {"right": 8.0, "wrong": 1.0, "right_control": 0.5, "wrong_control": 0.25},
    }  # fmt: skip
    first, second = (benchmark.THRESHOLDS["plan"][index] for index in (0, 1))
    moved = {"answer": "plan", "threshold": first, "gain": 0.1875, "gain_ci95": [-0.01, 0.3]}
    more = {"answer": "plan", "threshold": second, "gain": 0.5, "gain_ci95": [0.4, 0.6]}
    action = {"answer": "action", "threshold": benchmark.THRESHOLDS["action"][0], "gain": 0.1875, "gain_ci95": [0.02, 0.3]}
    others = [row | moved | {"control": "other_swapped"}, row | moved | {"subset": "alone"}]
    told = "18.8 (-1.0 .. +30.0) | 8, 1 (0.5, 0.2)"
    assert benchmark.bars([row | moved, row | more, *others]) == [f"| ppo | red | masked | 40 | +{told} |  |  | **missed** |"]
    with_action = f"| ppo | red | masked | 40 | +{told} | +18.8 (+2.0 .. +30.0) | 8, 1 (0.5, 0.2) | met |"
    assert benchmark.bars([row | moved, row | action, *others]) == [with_action]
