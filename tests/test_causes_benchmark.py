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
    with Image.open(sheet) as drawn:
        assert drawn.size[0] > 5 * 352
