"""A run's policies in both stages: what they are shown, that they plan it, and what is written of how that scores."""

import csv
import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from irlvla.cli import main
from irlvla.data.features import view_names
from irlvla.data.synthetic import synthetic_paths
from irlvla.learned import checkpoint_of
from irlvla.recipes import keep_recipe, recipe_of
from irlvla.run_data import data_of
from irlvla.submit import read_submission
from irlvla.train.imitation import fresh_policy, save_policy
from irlvla.two_stage import HEADER, ROWS
from irlvla.two_stage_plans import assess_two_stages, rows_text, two_stage_plans, two_stage_store

from .followed_world import CAMERA, SENSORS, followed_world
from .stand_in import IMITATION, POLICY, MemoryStore


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return followed_world(tmp_path_factory.mktemp("world"), count=2)


@pytest.fixture(scope="module")
def split(world):
    return world[0] / "splits" / "two_stage.yaml"


@pytest.fixture(scope="module")
def store(world, split, tmp_path_factory):
    return two_stage_store(
        world[0] / "openscene", world[0] / "maps", split, tmp_path_factory.mktemp("stores") / "both", SENSORS, processes=1
    )


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    folder, memory = tmp_path_factory.mktemp("run"), MemoryStore(9)
    policy = fresh_policy(POLICY, memory.human(np.arange(9)).astype(np.float32), seed=0).eval()
    with torch.no_grad():  # a fresh planner begins at its anchors, whatever it sees
        for weights in policy.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    save_policy(checkpoint_of(folder, "imitation"), policy, IMITATION, memory)
    return folder


def assessed(world, split, run, **options):
    return assess_two_stages(run, world[0] / "openscene", world[0] / "maps", split, 0, SENSORS, processes=1, **options)


def test_policies_are_shown_both_stages(world, store):
    assert len(store) == 12 and not store.failed and not store.has_previous.any() and set(store.log_names) == {"one", "two"}
    second = np.array([len(token) == 17 for token in store.tokens])
    features = store.features(np.arange(12))
    assert features.images.shape[:2] == (12, len(view_names(SENSORS))) and second.sum() == 8
    assert features.images[second].any(axis=(1, 2, 3, 4)).all() and not features.images[~second].any()
    # The ego status is that of the synthetic scene: a history of its own, at a speed of its own.
    assert np.ptp(features.ego_history[second, 3, 3]) > 0.1 and features.ego_history[~second, 3, 3] == pytest.approx(5.0)
    assert features.ego_history[:, 3, :3] == pytest.approx(0.0) and (features.ego_history[:, 0, 0] < -5).all()
    assert np.isnan(store.human(np.flatnonzero(second))).all() and np.isfinite(store.human(np.flatnonzero(~second))).all()
    # Cameras are where they are on the car in either stage, though the logs' lidar frame is another than the ego's.
    assert store.rig(np.arange(12)).ego_from_camera == pytest.approx(store.rig([0]).ego_from_camera.repeat(12, axis=0))


def test_the_store_is_kept_until_something_changes(world, split, store):
    again = two_stage_store(world[0] / "openscene", world[0] / "maps", split, store.folder, SENSORS, processes=1)
    assert again.key == store.key
    part = store.folder.with_name("part")
    shutil.copytree(store.folder, part)
    header = json.loads((part / "store.json").read_text())
    (part / "store.json").write_text(json.dumps(header | {"complete": False}))
    (part / "shard-0002.json").unlink()
    assert two_stage_store(world[0] / "openscene", world[0] / "maps", split, part, SENSORS, processes=1).tokens == store.tokens


def test_every_row_plans_what_it_can(world, split, store, run):
    plans = two_stage_plans(run, store, split, ("human", "constant_velocity", "imitation"))
    counts = {name: (len(both.stage_one), len(both.stage_two)) for name, both in plans.items()}
    assert counts == {"human": (4, 0), "constant_velocity": (4, 8), "imitation": (4, 8)}
    assert plans["human"].stage_one[world[1][0].now][-1] == pytest.approx([20.0, 0.0, 0.0])
    assert len({poses.tobytes() for poses in plans["imitation"].stage_two.values()}) > 1
    with pytest.raises(ValueError, match="no checkpoint for 'ppo'"):
        two_stage_plans(run, store, split, ("ppo",))


def test_an_evaluation_leaves_a_table_a_row_and_all_rows_beside_them(world, split, run, monkeypatch):
    found = assessed(world, split, run)
    place = run / "evaluation" / "two_stage"
    assert json.loads((place / "results.json").read_text()) == found
    rows = {row["policy"]: row for row in found["rows"]}
    assert list(rows) == ["human", "constant_velocity", "ctra", "stand_still", "imitation"] and not found["failed"]
    assert rows["human"]["stage_one"]["score"] > 90 and rows["human"]["stage_two"] is rows["human"]["combined"] is None
    assert rows["constant_velocity"]["valid"] and rows["constant_velocity"]["entries_in_combined"] == found["entries"] == 2
    assert rows["constant_velocity"]["combined"] > 50 > rows["stand_still"]["stage_two"]["ep"]
    with (place / "imitation.csv").open() as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == HEADER and [row["token"] for row in table[-3:]] == list(ROWS) and len(table) == 15
    assert float(table[-1]["score"]) == pytest.approx(rows["imitation"]["combined"] / 100)
    assert len(read_submission(place / "imitation.pkl").stage_two) == 8
    text = rows_text(found)
    assert "2 entries, 12 scenes of 2 logs" in text and "NOT VALID" not in text and f"{rows['imitation']['combined']:.1f}" in text
    # Again, nothing is scored that did not change.
    monkeypatch.setattr("irlvla.two_stage_plans.score_two_stage", None)
    assert assessed(world, split, run, names=("constant_velocity", "human"))["rows"] == found["rows"][:2]
    (place / "results.json").write_text("nothing")
    with pytest.raises(TypeError, match="not callable"):
        assessed(world, split, run, names=("constant_velocity",))


def test_a_scene_that_cannot_be_read_is_named_and_makes_a_row_invalid(world, split, run, tmp_path):
    folder = tmp_path / "world"
    shutil.copytree(world[0], folder)
    token = world[1][0].follow_ups[0][0]
    next((folder / "openscene" / "two_stage" / "sensor_blobs" / "one" / CAMERA).glob(f"{token}.jpg")).unlink()
    synthetic_paths(folder / "openscene")[world[1][1].follow_ups[0][0]].write_bytes(b"nothing")
    found = assessed((folder, None), folder / "splits" / "two_stage.yaml", tmp_path / "run", names=("constant_velocity",))
    assert set(found["failed"]) == {token, world[1][1].follow_ups[0][0]} and not found["rows"][0]["valid"]
    assert "NOT VALID" in rows_text(found) and "no plan" in found["failed"][token]


def test_a_split_without_scenes_that_can_be_read_is_refused(world, tmp_path):
    folder = tmp_path / "world"
    shutil.copytree(world[0], folder)
    shutil.rmtree(folder / "openscene" / "two_stage" / "sensor_blobs")
    shutil.rmtree(folder / "openscene" / "sensor_blobs")
    with pytest.raises(ValueError, match="none of 12 scenes can be read; the first failed with: scene .*CAM_F0"):
        two_stage_store(
            folder / "openscene", folder / "maps", folder / "splits" / "two_stage.yaml", tmp_path / "store", SENSORS, processes=1
        )


def test_logged_scenes_without_pictures_leave_nothing_to_evaluate(world, tmp_path):
    folder = tmp_path / "world"
    shutil.copytree(world[0], folder)
    shutil.rmtree(folder / "openscene" / "sensor_blobs")
    with pytest.raises(ValueError, match="constant_velocity has no plan for any logged scene; 4 scenes could not be read"):
        assessed((folder, None), folder / "splits" / "two_stage.yaml", tmp_path / "run", names=("constant_velocity",))


def test_a_process_that_dies_is_named(world, split, tmp_path, monkeypatch):
    monkeypatch.setattr("irlvla.two_stage_plans.work_off", lambda *_, **__: {1: "ended with exit code -9"})
    with pytest.raises(ValueError, match="the process that read shard 1 ended with exit code -9"):
        two_stage_store(world[0] / "openscene", world[0] / "maps", split, tmp_path / "store", SENSORS, processes=1)


def test_the_command_line_evaluates_and_submits_both_stages(world, split, run, tmp_path, monkeypatch, capsys):
    keep_recipe(run, replace(recipe_of("tiny", 5), sensors=SENSORS))
    data_of(run, world[0] / "openscene", world[0] / "maps", split)

    def irlvla(*arguments):
        monkeypatch.setattr(sys, "argv", ["irlvla", *map(str, arguments)])
        main()

    irlvla("submit", "--run", run, "--split", split, "--out", tmp_path / "s.pkl", "--policy", "imitation", "--team", "us")
    given = read_submission(tmp_path / "s.pkl")
    assert (len(given.stage_one), len(given.stage_two), given.team["team_name"]) == (4, 8, "us")
    assert "4 plans of stage one, 8 of stage two" in capsys.readouterr().out
    irlvla("evaluate", "--run", run, "--split", split, "--two-stage", "--policy", "human", "--traffic", "log_replay")
    found = json.loads((run / "evaluation" / "two_stage" / "results.json").read_text())
    assert found["traffic"] == "log_replay" and found["seeds"] == [5] and "human" in capsys.readouterr().out
    token = world[1][0].follow_ups[0][0]
    for arguments, message in (
        (("--two-stage",), "--two-stage goes with --split"),
        (("--split", split, "--two-stage", "--reward"), "not with"),
    ):
        with pytest.raises(SystemExit, match=message):
            irlvla("evaluate", "--run", run, *arguments)
    picture = next((world[0] / "openscene" / "two_stage").rglob(f"{token}.jpg"))
    hidden = picture.rename(tmp_path / "hidden.jpg")
    for verb in (("submit", "--out", tmp_path / "s.pkl", "--policy", "imitation"), ("evaluate", "--two-stage", "--policy", "human")):
        shutil.rmtree(run / "stores")
        with pytest.raises(SystemExit, match="1"):
            irlvla(verb[0], "--run", run, "--split", split, *verb[1:])
        assert f"failed: {token}: " in capsys.readouterr().out
    hidden.rename(picture)
