"""The table of what each part of the architecture is worth: its plan, its page."""

import json

import numpy as np
import pytest

from irlvla.evaluate import write_table
from irlvla.recipes import default, stage_config, vla
from irlvla.variants import IMITATION_VARIANTS

from .test_proof import benchmark, proof_stage
from .test_proof_tables import SCENES, scored

architecture = benchmark("architecture")
MORE = {"human": 0.96, "imitation_main": 0.6, "imitation": 0.9}


def test_every_variant_is_trained_before_it_is_evaluated_and_those_that_tell_something_are_asked(tmp_path):
    stages = architecture.stages_of_seed(tmp_path / "31", default(31), 600, tuple(IMITATION_VARIANTS))
    seen = set()
    for stage in stages:
        assert seen.issuperset(stage.needs), stage.name
        seen.add(stage.key)
    rows = {stage.name: stage.settings["rows"] for stage in stages if "rows" in stage.settings}
    assert set(IMITATION_VARIANTS) <= set(rows["evaluate:architecture"])
    assert {name for row in rows["evaluate:architecture"] for name in proof_stage.stages_of(row)} <= {stage.name for stage in stages}
    for name in IMITATION_VARIANTS:
        perception = stage_config(name, default()).policy.perception
        assert (name in rows["perceive"]) == (perception.elements is not None or perception.language is not None)


def test_each_step_of_the_ladder_adds_one_part():
    parts = []
    for name in architecture.LADDER[1:]:
        perception = stage_config(name, vla()).policy.perception
        assert not perception.birds_eye.lamps
        parts.append((perception.birds_eye.lift, perception.elements is not None, perception.language is not None))
    assert parts == [(False, False, False), (True, False, False), (True, True, False), (True, True, True)]
    found = architecture.pairs([*architecture.LADDER, "imitation_meta", "imitation_regression"])
    assert ("imitation_elements", "imitation_birds_eye") in found and ("imitation_regression", "imitation_birds_eye") in found
    assert ("imitation_meta", "imitation_language") in found and all("imitation_lite0" not in pair for pair in found)


def test_the_main_job_is_one_of_the_rows_of_the_whole_architecture():
    main, imitation = stage_config("imitation_main", vla(3)), default(3).imitation
    assert main.policy == imitation.policy and main.planner == imitation.planner
    assert (main.steps, main.planner_steps, main.seed) == (imitation.steps, imitation.planner_steps, imitation.seed)
    assert stage_config("imitation_main", default(3)) == imitation


def share(value):
    return {"value": value, "ci95": [value, value]}


def test_the_page_is_written_from_what_was_recorded(tmp_path):
    run, docs = tmp_path / "31", tmp_path / "docs" / "architecture"
    for name, value in {"no_camera": 0.5, "imitation_pictures": 0.6, "imitation_birds_eye": 0.7, "imitation_language": 0.8, **MORE}.items():
        write_table(run / "evaluation" / "test" / f"{name}.csv", scored(name, value))
        about = {"policy": name, "run": "", "seed": 31, "commit": "c0ffee", "command": "x", "stages": {}, "probes": None}
        about |= {"made": {}, "parts": {"all": {"ade": {"mean": 1.0}, "fde": {"mean": 2.0}}}}
        (run / "evaluation" / "test" / f"{name}.json").write_text(json.dumps(about))
    np.savez(run / "evaluation" / "subsets.npz", unseen_towns=np.arange(SCENES) < 6)
    (run / "marks").mkdir()
    mark = {"commit": "c0ffee", "changed_since_commit": False, "finished": "now", "seconds": 50.0, "interrupted": False}
    (run / "marks" / "imitation_language.json").write_text(json.dumps(mark))
    architecture.record(run, 31, docs)
    statement = {"name": "red light", "field": "light", "stated": 3, "true": 4, "precision": share(2 / 3), "recall": share(0.5)}
    said = {"malformed": share(0.25), "exact": share(0.5), "statements": [statement, statement | {"name": "turn left", "precision": None}]}
    report = {"policy": "imitation_language", "scenes": 12, "logs": 4, "facts": said}
    report |= {"detection": {"ap": share(12.5), "ap_bicycle": {"value": None, "ci95": None}}, "map": {"ap": share(30.0)}}
    architecture.write_compact(docs / "perception" / "31-imitation_language.json", report)
    architecture.write_page(docs)
    text, found = docs.with_suffix(".md").read_text(), json.loads(docs.with_suffix(".json").read_text())
    assert "| imitation_language | 80.0 | 80.0 .. 80.0 |" in text and "| imitation_birds_eye - imitation_pictures | +10.0" in text
    assert (
        "| imitation - imitation_main >= 3.0 (3, or a quarter of the gap to human), interval excluding 0 | 30.0 | 30.0 .. 30.0 | met |"
        in text
    )
    assert "| imitation_birds_eye - imitation_pictures | 10.0 | 10.0 .. 10.0 | helps |" in text
    assert "| longest run of an ablation, by the clock and beside other stages: at most 240 s | 50 s |  | met |" in text
    assert "imitation_elements" not in text and "| imitation_language | 12.5 |" in text
    assert "25.0 % malformed, 50.0 % right in every fact" in text and "| red light | 4 | 3 | 66.7 | 50.0 |" in text
    assert "| turn left | 4 | 3 |  | 50.0 |" in text and found["wall_seconds"] == {"31": {"imitation_language": 50.0}}
    with pytest.raises(SystemExit, match="nothing is recorded"):
        architecture.write_page(tmp_path / "nothing")


def test_a_row_that_is_no_variant_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(SystemExit, match="no rows of IMITATION_VARIANTS: imitation, ego_mlp;"):
        architecture.main(runs=tmp_path / "runs", rows=["imitation", "ego_mlp"])
    assert not (tmp_path / "runs").exists()
