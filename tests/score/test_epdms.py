import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies

import irlvla
from irlvla.score.epdms import PROPOSALS_AT_ONCE, RawScores, batch_scores, epdms, human_zeros, raw_scores, reference_progress, sub_scores
from irlvla.score.states import reference_poses
from irlvla.types import SUB_SCORE_NAMES, SubScores
from irlvla.vehicle import simulated
from tests.score import slow_twin
from tests.score.scenes import ROAD, moving, prepared_by_hand, rectangle, straight_plan


def scores(convert=np.array, **changes):
    values = {name: [1.0] for name in SUB_SCORE_NAMES} | {"ec_defined": [1.0]} | {name: [value] for name, value in changes.items()}
    return SubScores(**{name: convert(value) for name, value in values.items()})


@pytest.mark.parametrize("convert", [np.array, torch.tensor])
def test_epdms_by_hand(convert):
    assert float(epdms(scores(convert))[0]) == 1.0
    assert float(epdms(scores(convert, ep=0.5))[0]) == pytest.approx((2.5 + 5 + 2 + 2 + 2) / 16)
    assert float(epdms(scores(convert, nc=0.5, ttc=0.0))[0]) == pytest.approx(0.5 * 11 / 16)
    assert float(epdms(scores(convert, tlc=0.0))[0]) == 0.0
    assert float(epdms(scores(convert, ec=0.0))[0]) == pytest.approx(14 / 16)
    assert float(epdms(scores(convert, ec=0.0, ec_defined=0.0, lk=0.0))[0]) == pytest.approx(12 / 14)


def test_a_driver_in_its_lane_scores_one_by_the_public_call():
    plan = straight_plan()
    result = irlvla.score(prepared_by_hand(), plan, prev_poses=plan)
    assert float(irlvla.epdms(result)[0]) == 1.0 and result.ec_defined[0] == 1.0


def test_importing_the_package_brings_neither_torch_nor_numba():
    program = "import irlvla, sys; sys.exit(any(name in sys.modules for name in ('torch', 'numba', 'shapely')))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_progress_is_compared_with_the_reference_alone():
    scene = prepared_by_hand(reference=40.0)
    plans = np.concatenate([straight_plan(5.0), straight_plan(15.0)])
    together = sub_scores(scene, plans)
    alone = [sub_scores(scene, plan[None]) for plan in plans]
    assert np.array_equal(together.ep, [one.ep[0] for one in alone])
    assert 0.5 < together.ep[0] < 0.7 and together.ep[1] == 1.0


def test_up_to_five_metres_every_progress_is_full():
    standing = straight_plan(0.0)
    assert sub_scores(prepared_by_hand(speed=0.0, reference=5.0), standing).ep[0] == 1.0
    assert sub_scores(prepared_by_hand(speed=0.0, reference=5.001), standing).ep[0] == 0.0


def test_a_reference_at_fault_leaves_the_proposal_to_itself():
    scene = dataclasses.replace(prepared_by_hand(reference=80.0), reference_multiplier=0.0)
    assert sub_scores(scene, straight_plan(5.0)).ep[0] == 1.0


def test_the_human_filter_turns_zeros_of_the_human_into_ones():
    plan = straight_plan(10.0, lateral=-3.5)
    filtered = prepared_by_hand(human_zero=("lk", "ddc"))
    assert sub_scores(filtered, plan).lk[0] == 1.0 and sub_scores(filtered, plan).ddc[0] == 1.0
    assert sub_scores(filtered, plan, human_filter=False).lk[0] == 0.0
    assert sub_scores(prepared_by_hand(), plan).ddc[0] == 0.0


def test_the_human_filter_looks_at_zeros_only_and_never_at_ep_and_hc():
    scene = prepared_by_hand(objects=[moving("traffic_cone", 25.0, 0.0, size=(0.5, 0.5))], reference=200.0)
    zeros = human_zeros(scene)
    assert not zeros[0] and zeros[5] and not zeros[4] and not zeros[7]


def test_ec_needs_a_previous_plan_and_a_frame_before():
    plan = straight_plan()
    assert sub_scores(prepared_by_hand(), plan).ec_defined[0] == 0.0
    assert sub_scores(prepared_by_hand(has_previous=False), plan, plan).ec_defined[0] == 0.0
    assert sub_scores(prepared_by_hand(gaps_us=(500_000, 500_000, 560_000)), plan, plan).ec_defined[0] == 0.0


def test_the_reference_is_simulated_like_any_plan():
    progress, multiplier = reference_progress(prepared_by_hand())
    assert progress == pytest.approx(40.0, abs=1e-3) and multiplier == 1.0
    assert reference_progress(prepared_by_hand(objects=[moving("vehicle", 30.0, 0.0)]))[1] == 0.0


def test_the_batch_score_normalises_progress_over_the_batch():
    ones = np.ones(3)
    values = dict.fromkeys(("dac", "ddc", "tlc", "ttc", "lk", "hc"), ones)
    raw = RawScores(**values, nc=np.array([1.0, 1.0, 0.0]), progress=np.array([10.0, 20.0, 40.0]))
    assert np.allclose(batch_scores(raw), [(2.5 + 9) / 14, 1.0, 0.0])


@pytest.mark.parametrize("count", [7, 39])
def test_a_plan_of_the_wrong_length_is_refused(count):
    with pytest.raises(ValueError, match=f"not shape .1, {count}, 3."):
        sub_scores(prepared_by_hand(), np.zeros((1, count, 3)))


def test_plans_that_are_not_finite_or_differ_in_number_are_refused():
    plan = straight_plan()
    with pytest.raises(ValueError, match="not finite"):
        sub_scores(prepared_by_hand(), plan * np.nan)
    with pytest.raises(ValueError, match="1 proposals but 2 previous"):
        sub_scores(prepared_by_hand(), plan, np.concatenate([plan, plan]))


def random_scene(seed, origin=(365_000.0, 4_010_000.0, 0.7), order=None):
    random = np.random.default_rng(seed)
    speed = float(random.choice([8.0, 5.0, 0.0, -3.0, 35.0]))
    kinds = ("vehicle", "pedestrian", "bicycle", "traffic_cone", "barrier")
    objects = []
    for _ in range(random.integers(0, 9)):
        first, last = sorted(random.integers(0, 41, 2))
        place = random.uniform([-15, -5], [45, 5])
        objects.append(
            moving(
                str(random.choice(kinds)), *place, random.uniform(-3, 3), random.choice([0, 3, 9]), random.uniform(0.5, 5, 2), first, last
            )
        )
    road = list(ROAD)
    if random.random() < 0.5:
        road.append(("intersection", False, rectangle(10, -8, 10 + random.uniform(5, 20), 8)))
    reds = [(rectangle(*random.uniform([10, -2], [40, -1]), 60, 1.5), random.random(41) < 0.7)] if random.random() < 0.3 else []
    plans = np.concatenate(
        [straight_plan(random.uniform(-2, 2) + speed, random.normal(0, 1.5), turn=random.choice([0, 0.1, -0.1])) for _ in range(6)]
    )
    made = {"objects": objects, "road": road, "reds": reds, "yaw_rate": random.normal(0, 0.1), "reference": random.uniform(0, 50)}
    order = None if order is None else np.random.default_rng(order).permutation(len(objects))
    return prepared_by_hand(speed=speed, origin=origin, order=order, **made), plans


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=strategies.integers(0, 2**32 - 1))
def test_the_fast_score_equals_its_slow_twin(seed):
    scene, plans = random_scene(seed)
    states = simulated(scene.ego_state, reference_poses(scene.ego_state, scene.time_us, plans))
    raw = raw_scores(scene, states, with_history=True)
    fast = np.array([raw.nc, raw.dac, raw.ddc, raw.tlc, raw.ttc, raw.lk, raw.hc, raw.progress]).T
    slow = np.array([slow_twin.raw_scores(scene, state) for state in states])
    assert np.abs(fast - slow).max() < 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_turning_and_shifting_the_world_or_shuffling_objects_and_plans_changes_nothing(seed):
    scene, plans = random_scene(seed)
    expected = epdms(sub_scores(scene, plans, plans))
    moved, _ = random_scene(seed, origin=(331_000.0, 4_690_000.0, -2.9))
    assert np.allclose(epdms(sub_scores(moved, plans, plans)), expected, atol=1e-5)
    shuffled, _ = random_scene(seed, order=seed)
    assert np.array_equal(epdms(sub_scores(shuffled, plans[::-1], plans[::-1])), expected[::-1])
    assert np.array_equal(epdms(sub_scores(scene, plans[2:3], plans[2:3])), expected[2:3])


def test_read_only_arrays_are_scored_like_others():
    scene, plans = random_scene(1)
    expected = sub_scores(scene, plans)
    for name in ("object_boxes", "centerline", "ego_state", "object_valid"):
        getattr(scene, name).flags.writeable = False
    plans.flags.writeable = False
    assert np.array_equal(sub_scores(scene, plans).nc, expected.nc)


def test_a_plan_scores_like_its_upsampling_to_10_hz():
    scene, plans = random_scene(3)
    knots = np.concatenate([np.zeros((len(plans), 1, 3)), plans], axis=1)
    times, fine = 0.5 * np.arange(9), 0.1 * np.arange(1, 41)
    dense = np.array([[np.interp(fine, times, plan[:, column]) for column in range(3)] for plan in knots]).transpose(0, 2, 1)
    assert np.allclose(epdms(sub_scores(scene, plans, plans)), epdms(sub_scores(scene, dense, dense)), atol=1e-5)


def test_a_car_that_backs_up_makes_no_progress_and_hits_what_is_behind_at_its_own_fault():
    backwards = straight_plan(-4.0)
    scene = prepared_by_hand(speed=-4.0, objects=[moving("vehicle", -12.0, 0.0)], reference=20.0)
    scores = sub_scores(scene, backwards)
    assert scores.ep[0] == 0.0 and scores.nc[0] == 0.0


def test_a_large_batch_is_scored_as_its_pieces_are():
    scene, plans = random_scene(3)
    plans = np.resize(plans, (2 * PROPOSALS_AT_ONCE + 7, 8, 3)) * np.linspace(0.2, 1.5, 2 * PROPOSALS_AT_ONCE + 7)[:, None, None]
    whole = sub_scores(scene, plans, plans[::-1])
    for part in (slice(0, 1), slice(PROPOSALS_AT_ONCE - 1, PROPOSALS_AT_ONCE + 2), slice(-3, None)):
        piece = sub_scores(scene, plans[part], plans[::-1][part])
        for field in dataclasses.fields(SubScores):
            assert np.array_equal(getattr(whole, field.name)[part], getattr(piece, field.name)), field.name
    assert len(sub_scores(scene, plans[:0]).nc) == 0


def test_the_frames_distance_is_a_difference_of_float_seconds():
    now = 1_600_000_000_000_000
    plan = straight_plan()
    for stamp, defined in ((now, 0.0), (now + 1, 1.0)):
        gap = stamp * 1e-6 - (stamp - 550_000) * 1e-6
        assert (gap < 0.55) == bool(defined)
        scene = dataclasses.replace(prepared_by_hand(), time_us=stamp, previous_time_us=stamp - 550_000)
        assert sub_scores(scene, plan, plan).ec_defined[0] == defined
