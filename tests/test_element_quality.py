"""Average precision by hand: nuScenes' and MapTR's rules, ranges, and numbers of selections of scenes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from irlvla.element_quality import (
    area,
    clipped_precision,
    detection_matches,
    detection_numbers,
    detection_quality,
    map_matches,
    map_numbers,
    map_quality,
    resampled_intervals,
)
from irlvla.types import Elements

STRAIGHT = np.stack([np.linspace(0.0, 9.0, 10), np.zeros(10)], axis=1)


def elements(scenes, boxes=(), lines=()):
    """`boxes`: (scene, x, y, vx, class of OBJECT_NAMES); `lines`: (scene, shift in y, kind)."""
    arrays = {
        "boxes": np.full((scenes, 32, 7), np.nan),
        "classes": np.full((scenes, 32), -1),
        "lines": np.full((scenes, 32, 10, 2), np.nan),
        "kinds": np.full((scenes, 32), -1),
    }
    for scene, x, y, speed, name in boxes:
        place = int((arrays["classes"][scene] >= 0).sum())
        arrays["boxes"][scene, place], arrays["classes"][scene, place] = (x, y, 4.0, 2.0, 0.0, speed, 0.0), name
    for scene, shift, kind in lines:
        place = int((arrays["kinds"][scene] >= 0).sum())
        arrays["lines"][scene, place], arrays["kinds"][scene, place] = STRAIGHT + [0.0, shift], kind
    return Elements(**arrays)


def candidates(scenes, queries, given):
    """`given`: (scene, query, x, y, vx, group, score); the others stand far off, with score 0."""
    boxes, scores = np.zeros((scenes, queries, 7)), np.zeros((scenes, queries, 4))
    boxes[..., :2] = 1e3
    for scene, query, x, y, speed, group, score in given:
        boxes[scene, query], scores[scene, query, group] = (x, y, 4.0, 2.0, 0.0, speed, 0.0), score
    return boxes, scores


def random_case(seed, scenes=6, queries=5):
    random = np.random.default_rng(seed)
    where = [(scene, *random.uniform(0, 12, 2), random.normal(), random.integers(0, 4)) for scene in range(scenes) for _ in range(4)]
    truth = elements(scenes, where, [(scene, shift, kind) for scene in range(scenes) for shift, kind in ((0, 0), (4, 0), (8, 1))])
    boxes, lines = random.uniform(0, 12, (scenes, queries, 7)), STRAIGHT + random.uniform(0, 9, (scenes, queries, 1, 1)) * [0.0, 1.0]
    scores = random.uniform(0, 1, (scenes, queries, 4)).round(1)
    return boxes, lines, scores, truth


def test_clipped_precision_by_hand():
    assert clipped_precision(np.array([0.0, 1.0]), np.array([1.0, 1.0])) == pytest.approx(1.0)
    assert clipped_precision(np.array([1.0]), np.array([0.1])) == 0.0
    # Recall of a tenth or less counts for nothing; 30 % reaches 20 of the 90 levels.
    assert clipped_precision(np.array([0.1]), np.array([1.0])) == 0.0
    assert clipped_precision(np.array([0.3]), np.array([0.55])) == pytest.approx(20 / 90 * 0.45 / 0.9)


def test_area_by_hand():
    # 1/3 at precision 1, 1/3 at 2/3 (better later on: 3/4), 1/3 at 3/4.
    assert area(np.array([1 / 3, 1 / 3, 2 / 3, 1.0]), np.array([1.0, 0.5, 2 / 3, 0.75])) == pytest.approx(1 / 3 + 2 / 3 * 0.75)


def test_a_perfect_finder_has_100_and_classes_without_elements_no_number():
    truth = elements(2, [(0, 10.0, 0.0, 5.0, 0), (1, 20.0, 5.0, 0.0, 5)])
    boxes, scores = candidates(2, 3, [(0, 1, 10.0, 0.0, 5.0, 0, 0.9), (1, 0, 20.0, 5.0, 0.0, 3, 0.8)])
    numbers = detection_quality(boxes, scores, truth)
    assert numbers["ap"] == numbers["ap_vehicle"] == numbers["ap_other"] == numbers["ap_at_0.5"] == pytest.approx(100.0)
    assert numbers["ap_pedestrian"] is None and numbers["ap_vehicle_15_30"] is None and numbers["velocity_error_bicycle"] is None
    assert numbers["ap_0_15"] == numbers["ap_15_30"] == pytest.approx(100.0) and numbers["ap_30_56"] is None
    assert numbers["velocity_error_vehicle"] == numbers["velocity_error"] == 0.0


def test_a_centre_3_m_off_matches_at_4_m_only():
    boxes, scores = candidates(1, 1, [(0, 0, 13.0, 0.0, 0.0, 0, 0.9)])
    numbers = detection_quality(boxes, scores, elements(1, [(0, 10.0, 0.0, 0.0, 0)]))
    assert [numbers[f"ap_at_{limit}"] for limit in (0.5, 1, 2, 4)] == pytest.approx([0.0, 0.0, 0.0, 100.0])
    assert numbers["ap"] == pytest.approx(25.0) and numbers["velocity_error"] is None


def test_a_centre_at_the_limit_does_not_match_as_in_nuscenes():
    boxes, scores = candidates(1, 1, [(0, 0, 12.0, 0.0, 0.0, 0, 0.9)])
    numbers = detection_quality(boxes, scores, elements(1, [(0, 10.0, 0.0, 0.0, 0)]))
    assert numbers["ap_at_2"] == 0.0 and numbers["ap_at_4"] == pytest.approx(100.0)


def test_the_best_candidate_takes_the_element_and_the_next_takes_the_next_nearest():
    # Both stand at the first car: the second, less sure one, takes the other car, 3 m away.
    truth = elements(1, [(0, 10.0, 0.0, 0.0, 0), (0, 13.0, 0.0, 0.0, 0)])
    boxes, scores = candidates(1, 2, [(0, 0, 10.0, 0.0, 0.0, 0, 0.5), (0, 1, 10.1, 0.0, 0.0, 0, 0.9)])
    matches = detection_matches(boxes, scores, truth).whole
    assert matches.scores[0].tolist() == [0.9, 0.5] and matches.hits[0, :, 0].all()
    assert matches.hits[0, :, 1].tolist() == [False, False, False, True]


def test_ap_of_a_false_alarm_between_two_finds_by_hand():
    # Found, false, found: (recall, precision) = (1/2, 1), (1/2, 1/2), (1, 2/3); between them precision is interpolated from the last at 1/2.
    truth = elements(2, [(0, 10.0, 0.0, 0.0, 0), (1, 10.0, 0.0, 0.0, 0)])
    given = [(0, 0, 10.0, 0.0, 0.0, 0, 0.9), (0, 1, 30.0, 9.0, 0.0, 0, 0.8), (1, 0, 10.0, 0.0, 0.0, 0, 0.7)]
    levels = np.arange(11, 101) / 100
    precision = np.where(levels <= 0.5, 1.0, 0.5 + (levels - 0.5) / 0.5 * (2 / 3 - 0.5))
    expected = 100 * np.maximum(precision - 0.1, 0).mean() / 0.9
    assert detection_quality(*candidates(2, 2, given), truth)["ap_vehicle"] == pytest.approx(expected)


def test_by_range_what_matches_a_farther_element_is_left_out():
    # The car stands at 16 m, found at 14.5 m: no false alarm of the near range, a find of the far one. The alarm at 5 m is one.
    truth = elements(1, [(0, 16.0, 0.0, 0.0, 0), (0, 3.0, 0.0, 0.0, 0)])
    given = [(0, 0, 14.5, 0.0, 0.0, 0, 0.9), (0, 1, 3.0, 0.0, 0.0, 0, 0.5), (0, 2, 3.0, 9.0, 0.0, 0, 0.8)]
    near, far, _ = detection_matches(*candidates(1, 3, given), truth).by_range
    assert near.counted[0, 3].tolist() == [False, True, True] and far.counted[0, 3].tolist() == [True, False, False]
    assert near.counted[0, 0].tolist() == [True, True, True] and far.counted[0, 0].tolist() == [False, False, False]
    assert near.truths[0].tolist() == far.truths[0].tolist() == [1]
    numbers = detection_numbers(detection_matches(*candidates(1, 3, given), truth))
    assert numbers["ap_vehicle_15_30"] == pytest.approx(50.0)
    # After a false alarm precision rises with recall to 1/2 (2 and 4 m), to 1/3 where the far car's candidate is one too (0.5 and 1 m).
    levels = np.arange(11, 101) / 100
    expected = [np.maximum(levels * last - 0.1, 0).mean() / 0.9 for last in (1 / 2, 1 / 3)]
    assert numbers["ap_vehicle_0_15"] == pytest.approx(100 * np.mean(expected))


def test_velocity_errors_of_finds_by_hand():
    # Half of the cars found without error, then all: the mean error up to recall 1/2 is 0, then it rises to 2.
    truth = elements(2, [(0, 10.0, 0.0, 3.0, 0), (1, 10.0, 0.0, 3.0, 0)])
    given = [(0, 0, 10.0, 0.0, 3.0, 0, 0.9), (1, 0, 10.0, 0.0, 7.0, 0, 0.8), (1, 1, 25.0, 0.0, 99.0, 0, 0.85)]
    levels = np.arange(11, 101) / 100
    expected = np.maximum((levels - 0.5) / 0.5 * 2.0, 0.0).mean()
    assert detection_quality(*candidates(2, 2, given), truth)["velocity_error_vehicle"] == pytest.approx(expected, abs=1e-6)


def test_velocity_errors_need_more_than_a_tenth_of_the_cars():
    truth = elements(10, [(scene, 10.0, 0.0, 3.0, 0) for scene in range(10)])
    given = [(0, 0, 10.0, 0.0, 4.0, 0, 0.9)]
    assert detection_quality(*candidates(10, 1, given), truth)["velocity_error"] is None
    given.append((1, 0, 10.0, 0.0, 4.0, 0, 0.9))
    assert detection_quality(*candidates(10, 1, given), truth)["velocity_error"] == pytest.approx(1.0)


def test_lines_by_hand():
    # At 0.7 m a hit from 1.0 m on; a copy of it is a false alarm although another line is 1.3 m away and free, as in MapTR.
    truth = elements(1, lines=[(0, 0.0, 1), (0, 2.0, 1)])
    lines = np.stack([STRAIGHT + [0.0, 0.7], STRAIGHT + [0.0, 0.7], STRAIGHT + [0.0, 2.0]])[None]
    scores = np.zeros((1, 3, 4))
    scores[0, :, 1] = 0.9, 0.8, 0.7
    matches = map_matches(lines, scores, truth)
    assert matches.hits[1].tolist() == [[False, False, True], [True, False, True], [True, False, True]]
    numbers = map_quality(lines, scores, truth)
    assert numbers["ap_at_0.5"] == pytest.approx(100 * 0.5 * (1 / 3))
    assert numbers["ap_at_1"] == numbers["ap_at_1.5"] == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))
    assert numbers["ap"] == numbers["ap_boundary"] and numbers["ap_centre"] is None


def test_a_line_at_the_limit_matches_as_in_maptr_and_its_direction_does_not_matter():
    scores = np.zeros((1, 1, 4))
    scores[0, 0, 3] = 0.2
    numbers = map_quality((STRAIGHT[::-1] + [0.0, 0.5])[None, None], scores, elements(1, lines=[(0, 0.0, 3)]))
    assert numbers["ap_stop"] == pytest.approx(100.0)


def test_scenes_without_any_element_have_no_numbers():
    boxes, lines, scores, _ = random_case(0)
    numbers = detection_quality(boxes, scores, elements(6)) | map_quality(lines, scores, elements(6))
    assert set(numbers.values()) == {None}


def test_candidates_of_equal_score_enter_together():
    truth = elements(2, [(0, 10.0, 0.0, 0.0, 0)])
    for scene in (0, 1):
        # One true and one false alarm of one score: precision is 1/2, in whichever order they come.
        given = [(0, 0, 10.0, 0.0, 0.0, 0, 0.5), (scene, 1, 30.0, 0.0, 0.0, 0, 0.5)]
        assert detection_quality(*candidates(2, 2, given), truth)["ap_vehicle"] == pytest.approx(100 * 0.4 / 0.9)


@settings(deadline=None, max_examples=20)
@given(some.integers(0, 10_000))
def test_a_selection_of_scenes_has_the_numbers_that_its_scenes_would_have(seed):
    boxes, lines, scores, truth = random_case(seed)
    chosen = np.random.default_rng(seed).integers(0, 6, 5)
    weights = np.bincount(chosen, minlength=6).astype(np.float64)
    part = Elements(boxes=truth.boxes[chosen], classes=truth.classes[chosen], lines=truth.lines[chosen], kinds=truth.kinds[chosen])
    pairs = [
        (detection_numbers(detection_matches(boxes, scores, truth), weights), detection_quality(boxes[chosen], scores[chosen], part)),
        (map_numbers(map_matches(lines, scores, truth), weights), map_quality(lines[chosen], scores[chosen], part)),
    ]
    for weighted, alone in pairs:
        assert weighted == pytest.approx(alone)


@settings(deadline=None, max_examples=20)
@given(some.integers(0, 10_000))
def test_the_orders_of_scenes_queries_and_elements_change_nothing(seed):
    boxes, lines, scores, truth = random_case(seed)
    random = np.random.default_rng(seed)
    scores = scores + random.uniform(0, 1e-3, scores.shape) * (scores < 1) * (scores > 0)
    scene, query, place = random.permutation(6), random.permutation(5), random.permutation(32)
    fields = {name: getattr(truth, name)[scene][:, place] for name in ("boxes", "classes", "lines", "kinds")}
    turned = (boxes[scene][:, query], lines[scene][:, query], np.clip(scores, 0, 1)[scene][:, query], Elements(**fields))
    for quality, index in ((detection_quality, 0), (map_quality, 1)):
        assert quality((boxes, lines)[index], np.clip(scores, 0, 1), truth) == pytest.approx(quality(turned[index], *turned[2:]))


def test_intervals_resample_whole_logs():
    boxes, _, scores, truth = random_case(0)
    matches = detection_matches(boxes, scores, truth)
    whole = detection_numbers(matches)["ap"]
    found = resampled_intervals(lambda weights: detection_numbers(matches, weights), ["a", "a", "b", "b", "c", "c"], resamples=50)
    assert found["ap"][0] <= whole <= found["ap"][1] and found["ap_30_56"] is None
    only = resampled_intervals(lambda weights: detection_numbers(matches, weights), ["a"] * 6, resamples=3)
    assert only["ap"] == pytest.approx((whole, whole))


def test_an_interval_needs_scenes():
    with pytest.raises(ValueError, match="no scenes: an interval needs at least one log"):
        resampled_intervals(lambda weights: {}, [])


def test_what_no_finder_may_say_is_named():
    boxes, lines, scores, truth = random_case(0)
    bad = scores.copy()
    bad[2, 1, 0] = 1.5
    with pytest.raises(ValueError, match=r"scene 2: a score of query 1 is not in \[0, 1\]"):
        detection_matches(boxes, bad, truth)
    lines = lines.copy()
    lines[3, 4, 0, 0] = np.nan
    with pytest.raises(ValueError, match="scene 3: the line of query 4 is not finite"):
        map_matches(lines, scores, truth)
