import numpy as np
import pytest

from irlvla.score.two_stage import COLUMNS, ScoredPlan, follow_up_weights, two_stage_scores
from irlvla.types import StagePair

EP, EC, SCORE = COLUMNS.index("ep"), COLUMNS.index("ec"), COLUMNS.index("score")
PAIR = StagePair(now="now", previous="prev", follow_ups=(("n1", "p1"), ("n2", "p2")))


def plan(token, time=0.0, start=(0.0, 0.0), end=(0.0, 0.0), ep=1.0, nc=1.0, shake=0.0):
    values = np.ones(8)
    values[EP], values[0] = ep, nc
    states = np.zeros((41, 11))
    states[:, 5] = shake * np.sin(np.arange(41.0))
    return ScoredPlan(
        token=token, time_us=int(1e6 * (100.0 + time)), start=np.array(start), end=np.array(end), values=values, states=states
    )


def plans(**changes):
    some = {"now": {"time": 0.5}, "prev": {}, "n1": {"time": 4.5}, "p1": {"time": 4.0}, "n2": {"time": 4.5}, "p2": {"time": 4.0}}
    return {token: plan(token, **values | changes.get(token, {})) for token, values in some.items()}


def test_one_where_everything_is_one():
    found = two_stage_scores([PAIR], plans())
    assert found.combined == 1.0 and (found.stage_one == 1.0).all() and (found.stage_two == 1.0).all() and not found.faults
    assert found.weights == {"n1": 0.5, "n2": 0.5, "p1": 0.5, "p2": 0.5} and found.counted == 1


def test_scenes_count_by_a_gaussian_of_their_distance_from_the_planned_end():
    weights = follow_up_weights(np.zeros(2), np.array([(0.0, 0.0), (0.1**0.5, 0.0)]))
    np.testing.assert_allclose(weights, np.array([1.0, np.exp(-0.5)]) / (1.0 + np.exp(-0.5)))


def test_where_no_scene_is_near_all_count_alike():
    np.testing.assert_array_equal(follow_up_weights(np.zeros(2), np.array([(2.0, 0.0), (2.0, 0.1), (50.0, 0.0)])), np.full(3, 1 / 3))
    # 1.9 m away the kernel is 1.45e-8: still above what the devkit takes for nothing.
    np.testing.assert_array_equal(follow_up_weights(np.zeros(2), np.array([(1.9, 0.0), (50.0, 0.0)])), (1.0, 0.0))


def test_a_hand_worked_pair():
    # EP 0.5 takes 2.5 of 16: score 0.84375. Both follow-ups of `now` count alike, of `previous` only the first one.
    near = {"start": (1.0, 1.0)}
    far = {"start": (9.0, 9.0)}
    found = two_stage_scores(
        [PAIR],
        plans(now={"end": (1.0, 1.0)}, prev={"end": (1.0, 1.0), "ep": 0.5}, n1=near, n2=near | {"nc": 0.0}, p1=near | {"ep": 0.5}, p2=far),
    )
    assert found.weights == pytest.approx({"n1": 0.5, "n2": 0.5, "p1": 1.0, "p2": 0.0})
    assert found.rows["prev"][SCORE] == 0.84375 and found.rows["n2"][SCORE] == 0.0
    assert found.combined == pytest.approx((1.0 * 0.5 + 0.84375 * 0.84375) / 2)
    assert found.stage_one[SCORE] == (1.0 + 0.84375) / 2 and found.stage_two[SCORE] == pytest.approx((0.5 + 0.84375) / 2)
    assert found.stage_two[EP] == pytest.approx((1.0 + 0.5) / 2) and found.stage_two[0] == pytest.approx((0.5 + 1.0) / 2)


def test_a_shaky_plan_costs_both_scenes_of_its_pair_their_comfort():
    found = two_stage_scores([PAIR], plans(n1={"shake": 5.0}))
    assert [found.rows[token][EC] for token in ("now", "n1", "p1", "n2", "p2")] == [1.0, 0.0, 0.0, 1.0, 1.0]
    assert found.rows["n1"][SCORE] == 14 / 16


def test_a_scene_that_was_not_scored_makes_the_whole_invalid_and_weights_uniform():
    some = plans(now={"end": (1.0, 1.0)}, n1={"start": (1.0, 1.0)}, n2={"start": (3.0, 3.0)})
    other = StagePair(now="a", previous="b", follow_ups=(("c", "d"),))
    more = {token: plan(token, time=time, ep=0.5) for token, time in (("a", 0.5), ("b", 0.0), ("c", 4.5), ("d", 4.0))}
    whole = two_stage_scores([PAIR, other], some | more)
    assert whole.combined == pytest.approx((1.0 + 0.84375**2) / 2)
    del some["p2"]
    found = two_stage_scores([PAIR, other], some | more)
    assert list(found.faults) == ["scene p2 was not scored"]
    assert found.weights["n1"] == 0.5 and found.counted == 1 and found.combined == pytest.approx(0.84375**2)
    assert np.isnan(found.rows["n2"][[EC, SCORE]]).all() and "p2" not in found.rows
    nothing = two_stage_scores([PAIR], {})
    assert np.isnan(nothing.combined) and np.isnan(nothing.stage_two).all() and len(nothing.faults) == 3


@pytest.mark.parametrize("time", [0.0, 0.56, -0.5])
def test_scenes_that_are_no_half_second_apart_are_no_pair(time):
    found = two_stage_scores([PAIR], plans(now={"time": time}))
    assert len(found.faults) == 1 and "scene now is" in found.faults[0] and "s after prev, not up to 0.55 s" in found.faults[0]


def test_a_scene_outside_all_pairs_makes_the_whole_invalid():
    found = two_stage_scores([PAIR], plans() | {"x": plan("x")})
    assert list(found.faults) == ["scene x has no extended comfort: it is in no pair that is whole"] and found.combined == 1.0


def test_a_pair_needs_a_follow_up():
    with pytest.raises(ValueError, match="scene now: no synthetic scene follows it"):
        StagePair(now="now", previous="prev", follow_ups=())
