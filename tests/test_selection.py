from dataclasses import replace

import numpy as np
import pytest

from irlvla.selection import (
    ROWS,
    SITUATIONS,
    baseline_plan,
    baseline_scores,
    drawn,
    likelihoods,
    logged_plan,
    printed_table,
    situations,
    spaced,
    states_until,
    table_rows,
)  # fmt: skip
from irlvla.types import HISTORY, SUB_SCORE_NAMES, Objects, Polygons, Scene, SubScores
from tests.score.scenes import prepared_by_hand


def log(speeds, turn_rates):
    speeds, turns = np.broadcast_arrays(np.asarray(speeds, float), np.asarray(turn_rates, float))
    heading = np.concatenate(([0.0], np.cumsum(turns[:-1] * 0.5)))
    x = np.concatenate(([0.0], np.cumsum(0.5 * speeds[:-1] * np.cos(heading[:-1]))))
    y = np.concatenate(([0.0], np.cumsum(0.5 * speeds[:-1] * np.sin(heading[:-1]))))
    return np.stack((x, y, heading), -1), speeds, np.gradient(speeds, 0.5)


def test_steady_straight_driving_and_standing_are_never_tried():
    assert not likelihoods(*log(np.full(30, 8.0), 0.0)).any()
    assert not likelihoods(*log(np.zeros(30), 0.0)).any()


def test_only_frames_with_a_previous_frame_history_and_future_are_tried():
    weights = likelihoods(*log(np.full(20, 8.0), 0.2))
    assert np.flatnonzero(weights).tolist() == list(range(HISTORY, 20 - 10))


def test_hard_braking_is_preferred_to_a_turn():
    braking = likelihoods(*log(np.maximum(12.0 - 1.1 * np.arange(30), 0.0), 0.0))
    turning = likelihoods(*log(np.full(30, 8.0), 0.2))
    assert braking[5] > turning[5] > 0


def test_drawing_leaves_out_weight_zero_and_prefers_heavy_frames():
    weights = np.array([0.0, 1.0, 0.0, 50.0])
    orders = [drawn(np.random.default_rng(seed), weights) for seed in range(40)]
    assert all(sorted(order) == [1, 3] for order in orders)
    assert sum(order[0] == 3 for order in orders) > 30


def test_chosen_frames_keep_their_distance_and_no_more_are_asked_than_needed():
    asked = []
    assert spaced([10, 11, 4, 20], 2, lambda frame: asked.append(frame) or True) == [4, 10]
    assert asked == [10, 4]


def straight_scene():
    return prepared_by_hand(speed=6.0, origin=(9.0, 0.0, 0.0), reference=24.0)


def scene_of(speed):
    poses = np.stack((speed * 0.5 * np.arange(14), np.zeros(14), np.zeros(14)), -1)
    nobody = Objects(track_tokens=(), types=np.zeros(0, int), boxes=np.zeros((0, 7)), velocities=np.zeros((0, 3)))
    count = len(poses)
    velocities = np.stack((np.full(count, speed), np.zeros(count)), -1)
    return Scene(
        token="now", log_name="log", map_name="m", frame_tokens=tuple("abc") + ("now",) + tuple(f"f{k}" for k in range(count - 4)),
        time_us=np.arange(count) * 500_000, ego_poses=poses, ego_velocities=velocities, ego_accelerations=np.zeros((count, 2)),
        commands=np.tile((0, 1, 0, 0), (count, 1)), roadblock_ids=("1",), objects=(nobody,) * count, traffic_lights=((),) * count,
        cameras=((),) * count, previous_token=None, lane_map=None,
    )  # fmt: skip


def test_the_baselines_extrapolate_the_last_four_states():
    scene = scene_of(6.0)
    assert states_until(scene, 3)[-1].tolist() == [9.0, 0.0, 0.0, 6.0, 0.0, 0.0, 0.0]
    assert np.allclose(baseline_plan("constant_velocity", scene, 3, None), logged_plan(scene, 3))
    with pytest.raises(ValueError, match="needs the prepared scene"):
        baseline_plan("pdm_closed", scene, 3, None)


def test_the_baselines_of_a_free_straight_road_score_as_expected_and_pdm_closed_has_no_ec():
    prepared = straight_scene()
    speed = float(prepared.ego_state[3])
    scene = scene_of(speed)
    scores = baseline_scores(ROWS, scene, prepared, None, human_filter=False)
    assert scores.nc.tolist() == [1.0] * len(ROWS)
    assert scores.ec_defined.tolist() == [0.0] * len(ROWS)
    assert scores.ep[ROWS.index("stand_still")] < scores.ep[ROWS.index("constant_velocity")]


def test_situations_are_seen():
    prepared = straight_scene()
    assert set(situations(prepared)) == set(SITUATIONS)
    assert not situations(prepared)["turn"] and not situations(prepared)["red_light"]
    x, y = prepared.ego_state[:2]
    ring = np.array([(x + 20, y - 1.5), (x + 30, y - 1.5), (x + 30, y + 1.5), (x + 20, y + 1.5)])
    red = Polygons(vertices=ring, ring_start=np.array([0, 4]), polygon_start=np.array([0, 1]))
    assert situations(replace(prepared, red_polygons=red, red_valid=np.ones((41, 1), bool)))["red_light"]
    turned = prepared.human_poses.copy()
    turned[-1, 2] = 0.4
    assert situations(replace(prepared, human_poses=turned))["turn"]


def test_the_table_averages_rows_and_ec_over_where_it_is_defined():
    ones = np.ones(len(ROWS))
    half = SubScores(**{name: ones for name in SUB_SCORE_NAMES if name != "ec"}, ec=ones, ec_defined=ones)
    none = SubScores(**{name: ones for name in SUB_SCORE_NAMES if name != "ec"}, ec=0 * ones, ec_defined=0 * ones)
    rows = table_rows([half, none])
    assert [row["policy"] for row in rows] == list(ROWS)
    assert rows[0]["ec"] == 100.0 and rows[0]["epdms"] == pytest.approx(100.0)
    assert "human" in printed_table("title", rows)
