import csv
import json
from pathlib import Path

import numpy as np
import pytest

import irlvla
from irlvla.data.metric_cache import cached_scene
from irlvla.metric_caches import metric_cache_scene
from irlvla.score_table import score_split
from irlvla.types import SUB_SCORE_NAMES

GOLDEN = Path(__file__).parent / "golden"


def expected():
    with (GOLDEN / "expected.csv").open() as file:
        return {(row["token"], int(row["trajectory"])): row for row in csv.DictReader(file) if row["traffic"] == "log_replay"}


@pytest.fixture(scope="module")
def scenes():
    return irlvla.load_metric_caches(GOLDEN / "metric_cache")


def test_the_devkits_caches_give_the_devkits_scores(scenes):
    rows, plans, count = expected(), np.load(GOLDEN / "trajectories.npz"), 0
    for scene in scenes:
        for suffix, first in (("", 0), ("_10hz", 1000)):
            if f"{scene.token}_poses{suffix}" not in plans:
                continue
            previous = f"{scene.token}_prev_poses{suffix}"
            found = irlvla.score(scene, plans[f"{scene.token}_poses{suffix}"], plans[previous] if previous in plans else None)
            for place in range(len(found.nc)):
                row = rows[scene.token, first + place]
                for name in SUB_SCORE_NAMES[:-1]:
                    assert abs(getattr(found, name)[place] - float(row[name.upper()])) < 1e-9
                assert (found.ec[place] == float(row["EC"])) if row["EC"] else not found.ec_defined[place]
                assert abs(irlvla.epdms(found)[place] - float(row["EPDMS"])) < 1e-9
                count += 1
    assert count > 100


def test_a_cached_scene_is_the_one_of_the_log(scenes):
    for scene, other in zip(scenes, irlvla.load_scenes(GOLDEN / "openscene", GOLDEN / "maps", "test", [scene.token for scene in scenes])):
        for name in ("ego_state", "past_states", "centerline", "human_poses", "reference_poses"):
            np.testing.assert_allclose(getattr(scene, name), getattr(other, name), atol=1e-6)
        assert scene.object_boxes.shape == other.object_boxes.shape and (scene.human_zero == other.human_zero).all()


def test_with_maps_a_cache_has_the_traffic_of_the_log_that_reacts(scenes):
    plans = np.load(GOLDEN / "trajectories.npz")
    for scene in irlvla.load_metric_caches(GOLDEN / "metric_cache", GOLDEN / "maps"):
        [other] = irlvla.load_scenes(GOLDEN / "openscene", GOLDEN / "maps", "test", [scene.token])
        np.testing.assert_allclose(scene.reactive.driver_poses, other.reactive.driver_poses)
        assert len(scene.reactive.driver_poses) and (scene.reactive.human_zero == other.reactive.human_zero).all()
        found, wanted = (irlvla.score(one, plans[f"{scene.token}_poses"][:12], traffic="idm") for one in (scene, other))
        for name in SUB_SCORE_NAMES:
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-9)
    with pytest.raises(ValueError, match="has no reactive traffic: it was prepared without .* metric caches without maps"):
        irlvla.score(scenes[0], plans[f"{scenes[0].token}_poses"][:1], traffic="idm")


def test_a_table_amid_traffic_that_reacts_needs_maps(tmp_path):
    places = (GOLDEN / "trajectories.npz", tmp_path / "t.csv", 1)
    with pytest.raises(ValueError, match="metric caches hold no lanes; for traffic that reacts pass maps as well"):
        score_split(None, None, None, *places, metric_cache=GOLDEN / "metric_cache", traffic="idm")
    found = score_split(None, GOLDEN / "maps", None, *places, metric_cache=GOLDEN / "metric_cache", traffic="idm")
    assert found["scenes"] == 2 and found["traffic"] == "idm" and found["maps"] == str(GOLDEN / "maps")


def test_objects_on_the_ego_are_left_out(monkeypatch):
    from dataclasses import replace

    from irlvla.score.prepared import completed

    [path] = GOLDEN.glob("metric_cache/*/unknown/271ebfe4c3922d41/metric_cache.pkl")
    scene, _ = cached_scene(path)
    boxes = scene.object_boxes.copy()
    boxes[0, 0, :3] = scene.ego_state[:3]
    assert completed(replace(scene, object_boxes=boxes)).object_boxes.shape[1] == scene.object_boxes.shape[1] - 1


def test_a_table_is_made_from_caches_alone(tmp_path):
    found = score_split(None, None, None, GOLDEN / "trajectories.npz", tmp_path / "t.csv", 1, metric_cache=GOLDEN / "metric_cache")
    assert found["scenes"] == 2 and found["data"] == str(GOLDEN / "metric_cache")
    assert len(found["failed"]) == 8 and "no metric cache of it is below" in found["failed"]["37d852864deef892"]
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = expected()
    assert len(rows) == found["trajectories"] > 100
    for row in rows:
        assert abs(float(row["EPDMS"]) - float(wanted[row["token"], int(row["trajectory"])]["EPDMS"])) < 1e-9
    assert json.loads((tmp_path / "t.json").read_text())["failed"] == found["failed"]


def test_caches_and_a_split_do_not_go_together(tmp_path):
    with pytest.raises(ValueError, match="scenes come from metric caches, or from a split or store"):
        score_split(None, None, "test", GOLDEN / "trajectories.npz", tmp_path / "t.csv", 1, metric_cache=GOLDEN / "metric_cache")


def test_a_damaged_cache_fails_its_scene_only(tmp_path):
    folder = tmp_path / "caches"
    for path in GOLDEN.glob("metric_cache/*/unknown/*/metric_cache.pkl"):
        (folder / path.parent.name).mkdir(parents=True)
        content = path.read_bytes()
        (folder / path.parent.name / path.name).write_bytes(content if path.parent.name.startswith("2") else content[:500])
    found = score_split(None, None, None, GOLDEN / "trajectories.npz", tmp_path / "t.csv", 1, metric_cache=folder)
    assert found["scenes"] == 1 and "not a readable cache" in found["failed"]["5ae9604062e39a93"]
    with pytest.raises(ValueError, match="5ae9604062e39a93.*not a readable cache"):
        metric_cache_scene(folder / "5ae9604062e39a93" / "metric_cache.pkl")
