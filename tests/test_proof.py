import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from irlvla.recipes import default, tiny
from irlvla.variants import IMITATION_VARIANTS, STAGES

ROOT = Path(__file__).resolve().parents[1]


sys.path.append(str(ROOT / "benchmarks"))  # they import each other by name


def benchmark(name):
    """A file of benchmarks as a module."""
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # its dataclasses look themselves up there
    specification.loader.exec_module(module)
    return module


proof, proof_stage = benchmark("proof"), benchmark("proof_stage")


def names(stages):
    return [stage.name for stage in stages]


def finish(stage, **changes):
    about = {"settings": stage.settings, "needs": proof.inputs_of(stage), "seconds": 1.0, "finished": "2026-01-01T00:00:00Z"} | changes
    proof.write_json(proof.mark_of(*stage.key), about)


def planned(folder, test_logs=600, only=None, seeds=(31,)):
    runs = {folder / str(seed): default(seed) for seed in seeds}
    return proof.plan(runs, test_logs, list(runs)[:1], only)


@pytest.fixture
def stages(tmp_path):
    return {stage.name: stage for stage in planned(tmp_path, only="core")}


def test_every_stage_comes_after_what_it_needs_and_only_the_first_seed_gets_all_ablations(tmp_path):
    seen, stages = set(), planned(tmp_path, seeds=(31, 32))
    for stage in stages:
        assert seen.issuperset(stage.needs) and stage.key not in seen, stage.name
        seen.add(stage.key)
    each = {"ppo_exact": ["31", "32"], "ppo_critic": ["31"], "reward_shifted": ["31"]} | dict.fromkeys(proof.LARGE, ["31", "32"])
    for name, seeds in each.items():
        assert sorted(run.name for run, stage in seen if stage == name and run.name != "camera_only") == seeds
    in_both = {name for run, name in seen if run == tmp_path / "32" / "camera_only"}
    assert {"ppo", "ppo_annotated", "ppo_all_logs"} <= in_both and "ppo_annotated_model" not in in_both


def test_every_trained_stage_of_the_recipes_is_in_the_plan_and_every_row_is_trained(tmp_path):
    stages = planned(tmp_path)
    assert {stage.name for stage in stages} >= set(STAGES) - set(IMITATION_VARIANTS)
    for stage in stages:
        for row in (stage.settings or {}).get("rows", ()):
            made = proof_stage.stages_of(row)
            assert {(stage.run, name) for name in made} <= {other.key for other in stages}, row


def test_a_part_of_the_work_comes_with_what_it_needs_and_nothing_else(tmp_path):
    bare = {(stage.run.name, stage.name) for stage in planned(tmp_path, only="camera_only")}
    assert {("31", "world"), ("31", "prepare"), ("camera_only", "ppo")} <= bare and ("31", "vision") not in bare
    assert ("31", "ppo") in {(stage.run.name, stage.name) for stage in planned(tmp_path, only="ablations")}
    assert planned(tmp_path, only="evaluate") == []


def test_two_stages_run_side_by_side(stages):
    waiting = list(stages.values())
    assert names(proof.startable(waiting, [])) == ["world"] and proof.startable(waiting[1:], waiting[:1]) == []
    for name in ("world", "prepare", "vision"):
        finish(stages[name])
    waiting = [stage for stage in waiting if stage.name not in ("world", "prepare", "vision")]
    assert names(proof.startable(waiting, [])) == ["imitation", "no_camera"]
    assert names(proof.startable(waiting[1:], waiting[:1])) == ["no_camera"]


def test_a_stage_is_stale_when_its_settings_or_what_it_needs_were_made_anew(stages, tmp_path):
    world, prepare = stages["world"], stages["prepare"]
    assert proof.state_of(world) == "new"
    finish(world, finished=None)
    assert proof.state_of(world) == "begun"
    finish(world)
    finish(prepare)
    assert proof.state_of(world) == proof.state_of(prepare) == "done"
    finish(world, finished="2026-01-02T00:00:00Z")
    assert proof.state_of(prepare) == "stale"
    other = {stage.name: stage for stage in planned(tmp_path, 300)}
    assert proof.state_of(other["world"]) == "stale"


def test_settings_agree_where_a_field_is_new_or_gone_and_differ_where_a_value_does():
    assert proof.agree({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 2], "new": 3}, "more": 4})
    assert not proof.agree({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 3]}})


def test_a_failure_stops_only_what_needs_it_and_what_is_done_is_kept(stages, monkeypatch, capsys):
    class Process:
        def __init__(self, code):
            self.returncode = code

        def poll(self):
            return self.returncode

    def begun(stage, resume, options):
        finish(stage, finished=None)
        started.append(stage.name)
        return Process(int(stage.name == "reward"))

    started = []
    monkeypatch.setattr(proof, "begun", begun)
    monkeypatch.setattr(proof, "POLL", 0.0)
    finish(stages["world"])
    failed = names(proof.carry_out(list(stages.values()), {stages["world"].run: []}))
    assert failed[0] == "reward" and {"ppo", "evaluate:core"} <= set(failed) and "world: kept" in capsys.readouterr().out
    assert sorted(started) == sorted(["prepare", "vision", "imitation", "no_camera", "ego_mlp", "tokens", "reward"])
    monkeypatch.setattr(proof, "begun", lambda stage, resume, options: (finish(stage, finished=None), Process(0))[1])
    assert proof.carry_out(list(stages.values()), {stages["world"].run: []}) == []
    assert json.loads(proof.mark_of(*stages["ppo"].key).read_text())["finished"]


def test_the_tiny_recipe_s_stages_have_its_settings(tmp_path):
    stages = {stage.name: stage for stage in proof.plan({tmp_path: tiny(1)}, None, [])}
    assert stages["ppo_exact"].settings["iterations"] == 3 and stages["ppo_exact"].settings["reward"] == "exact"
    assert stages["world"].settings["logs"] == tiny(1).logs


def left(folder):
    """Processes that work in a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [place] if str(folder) in place.read_text() and int(place.parent.name) != os.getpid() else []
        except OSError:  # it ended just now
            continue
    return found


def test_a_proof_that_was_killed_leaves_no_process_behind_and_goes_on(tmp_path):
    runs = tmp_path / "runs"
    options = ["--seeds", "1", "--recipe", "tiny", "--test-logs", "2", "--only", "core", "--runs", runs, "--docs", tmp_path / "docs"]
    command = [sys.executable, "-u", ROOT / "benchmarks" / "proof.py", *options]
    seen = []
    for until in ("prepare: begins", "vision: begins"):
        with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                seen.append(line.strip().split(" ", 2)[2])  # without the time and the seed
                if line.strip().endswith(until):
                    break
            process.kill()
        end = time.monotonic() + 60
        while left(runs) and time.monotonic() < end:
            time.sleep(0.1)
        assert left(runs) == []
    assert seen[0] == "world: begins" and "world: kept" in seen and "prepare: goes on" in seen
    mark = json.loads((runs / "1" / "marks" / "prepare.json").read_text())
    assert mark["finished"] and mark["interrupted"] and mark["command"].startswith("benchmarks/proof_stage.py --run")
    assert sorted(path.name for path in (runs / "1" / "stores").iterdir() if path.is_dir()) == ["test", "train", "val"]
