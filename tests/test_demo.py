import json
import subprocess
import sys
from pathlib import Path

import pytest

from irlvla import demo as module
from irlvla.cli import evaluate, submit, train
from irlvla.demo import demo
from irlvla.evaluate import ROW_NAMES, read_table
from irlvla.recipes import recipe_of

PARTS = ["world", "prepare", "imitation", "reward", "ppo", "evaluate"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A tiny demo that was stopped before stage 2, and what was trained until then."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    trained = []

    def stopping(stage, *arguments, **options):
        if stage == "reward":
            raise KeyboardInterrupt
        trained.append(stage)
        return fit(stage, *arguments, **options)

    fit, module.fit_stage = module.fit_stage, stopping
    try:
        with pytest.raises(KeyboardInterrupt):
            demo(folder, recipe_of("tiny", 1))
    finally:
        module.fit_stage = fit
    return folder, trained


def test_started_again_the_demo_continues_and_leaves_everything(interrupted, monkeypatch, capsys):
    folder, trained = interrupted
    assert trained == ["vision", "imitation"] and (folder / "ego_mlp" / "finished").exists()
    stages = json.loads((folder / "stages.json").read_text())
    assert stages["imitation"]["done"] and not stages["reward"]["done"]
    fit = module.fit_stage

    def watched(stage, *arguments, **options):
        trained.append(stage)
        return fit(stage, *arguments, **options)

    monkeypatch.setattr(module, "fit_stage", watched)
    monkeypatch.setattr(module, "make_world", lambda *arguments, **options: pytest.fail("the world was made twice"))
    demo(folder, recipe_of("tiny", 1))
    assert trained == ["vision", "imitation", "reward", "ppo"] and (folder / "best_of_g" / "finished").exists()
    printed = capsys.readouterr().out
    assert "imitation: kept" in printed and "stand_still" in printed

    results = json.loads((folder / "results.json").read_text())
    assert [row["policy"] for row in results["rows"]] == list(ROW_NAMES)
    assert results["split"] == "test" and results["seeds"] == [1] and list(results["wall_seconds"]) == [*PARTS, "total"]
    assert {"auc", "ece"} <= set(results["reward_world_model"]["nc"]) and "enrichment_exact" in results["reward_world_model"]
    assert {"policy": "ppo", "against": "imitation", "metric": "epdms"}.items() <= results["pairs"][10].items()
    for name in ROW_NAMES:
        assert len(read_table(folder / "evaluation" / "test" / f"{name}.csv").tokens) == results["scenes"]
    page = (folder / "report.html").read_text()
    assert "data:image/jpeg;base64," in page and "most harmed" in page and "<svg" in page
    assert 'src="http' not in page and 'href="http' not in page

    example = Path(__file__).resolve().parents[1] / "examples" / "plan_one_scene.py"
    answer = subprocess.run([sys.executable, str(example), str(folder)], capture_output=True, text=True, check=True)
    assert answer.stdout.count("[") == 9

    bench = Path(__file__).resolve().parents[1] / "benchmarks" / "ppo.py"
    small = ["--scenes", "4", "--group", "4", "--repeats", "1", "--out", str(folder / "ppo.json")]
    subprocess.run([sys.executable, str(bench), "--run", str(folder), *small], capture_output=True, check=True)
    assert {"rollout", "whole iteration, reward exact"} <= {row["what"] for row in json.loads((folder / "ppo.json").read_text())["rows"]}

    evaluate(folder, policy=("human", "imitation"))
    assert json.loads((folder / "results.json").read_text())["split"] == "val"
    submit(folder, folder / "world" / "splits" / "val.yaml", folder / "submission.pkl", policy="imitation")
    assert b"navsim.common.dataclasses" in (folder / "submission.pkl").read_bytes()
    train("ego_mlp", folder)
    with pytest.raises(ValueError, match="no checkpoint for 'nobody'; there are: ego_mlp, no_camera"):
        evaluate(folder, policy=("nobody",))


def test_another_seed_is_another_run(interrupted):
    folder, _ = interrupted
    stage = module._stage(folder, "world", ["other"])
    with stage as state:
        assert state == "fresh"
