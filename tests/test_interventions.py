"""Masks sit where things are, controls cover as much, and what is done to a picture is what answers are about."""

import dataclasses

import numpy as np
import pytest
import torch

from irlvla.causes import CauseConfig, cases, scene_cases, shot, views
from irlvla.interventions import answers, box_regions, length, masked, plans, policy_answer, rig_of, shown_features, thing_boxes, versions
from irlvla.masks import area
from irlvla.model.language import LanguageConfig
from irlvla.model.perception import PerceptionConfig
from irlvla.model.policy import Policy, PolicyConfig
from irlvla.model.vision import VisionConfig

from .causes_world import SENSORS, made_world
from .tiny import rig

SIZE = (SENSORS.height, SENSORS.width)
VISION = VisionConfig(widths=(8, 16, 16))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return made_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def found(world):
    return {case.cause: case for case in scene_cases(world, 0, CauseConfig())}


def policy(perception):
    torch.manual_seed(0)
    made = Policy(PolicyConfig(perception=perception, anchors=4, width=32, prior_width=32)).eval()
    anchors = torch.linspace(1, 4, 4)[:, None, None] * torch.tensor([1.0, 0.0, 0.0]) * torch.arange(1, 9)[:, None]
    made.set_normaliser(anchors, torch.tensor([15.0, 0.0, 0.0]), torch.tensor([20.0, 5.0, 1.0]), torch.Generator().manual_seed(0))
    return made


def test_the_length_of_a_plan_is_measured_along_it():
    there_and_back = np.zeros((1, 8, 3))
    there_and_back[0, :, 0] = [1, 2, 3, 4, 3, 2, 1, 0]
    assert length(there_and_back).tolist() == [8.0]
    assert length(np.zeros((2, 8, 3))).tolist() == [0.0, 0.0]


def test_a_box_is_covered_where_a_pinhole_shows_it():
    # A wall 1.9 m wide, 0.7 to 1.5 m high, 10 m ahead of cameras of 90 degrees that hang 1.6 m high, the ego looking along global y.
    ego = np.array([100.0, 50.0, np.pi / 2])
    wall = np.array([[100.0, 60.0, 0.7, np.pi / 2, 0.0, 1.9, 0.8]])
    ahead = rig(views=2)
    [first], [second] = box_regions(wall, ego, ahead, 40, 80)
    assert first.tolist() == [20 - 1, 22 + 1, 36 - 1, 44 + 1] and second.tolist() == first.tolist()
    behind = wall + (0.0, -20.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert [len(some) for some in box_regions(behind, ego, ahead, 40, 80)] == [0, 0]
    missing = dataclasses.replace(ahead, valid=np.array([True, False]))
    assert [len(some) for some in box_regions(wall, ego, missing, 40, 80)] == [1, 0]


@pytest.mark.parametrize("cause, change", [("lead", "removed"), ("red", "swapped")])
def test_the_mask_covers_what_changes_when_the_cause_is_drawn_anew(world, found, cause, change):
    case, at = found[cause], shot(world, 0)
    regions = box_regions(thing_boxes(at, case), at.ego, rig_of(world, 0), *SIZE)
    made = versions(at, case, rig_of(world, 0), SENSORS, 3, np.random.default_rng(0))
    [original], [changed], [covered] = made["original"], made[change], made["masked"]
    for view, some in enumerate(regions):
        inside = np.zeros(SIZE, bool)
        for top, bottom, left, right in some:
            inside[top:bottom, left:right] = True
        different = np.abs(original[view].astype(int) - changed[view]).max(axis=2) > 40
        # The car's shadow lies beside it on the road.
        assert different.sum() > 5 and different[inside].sum() > 0.8 * different.sum()
        np.testing.assert_array_equal(covered[view][~inside], original[view][~inside])
        assert (covered[view][inside] != original[view][inside]).any()
    assert len(made["elsewhere"]) == 3 and len(made[f"other_{change}"]) == 1


def test_as_much_is_masked_elsewhere_and_the_cause_stays(world, found):
    case, at = found["red"], shot(world, 0)
    original = views(at, SENSORS)
    regions = box_regions(thing_boxes(at, case), at.ego, rig_of(world, 0), *SIZE)
    assert all(len(some) and area(some).min() > 0 for some in regions)
    for moved in versions(at, case, rig_of(world, 0), SENSORS, 4, np.random.default_rng(1))["elsewhere"]:
        for view, some in enumerate(regions):
            for top, bottom, left, right in some:
                np.testing.assert_array_equal(moved[view, top:bottom, left:right], original[view, top:bottom, left:right])
            assert (moved[view] != original[view]).any(axis=2).sum() <= area(some).sum()
        assert (moved != original).any()


def test_where_there_is_no_room_or_no_other_thing_there_is_no_control(world, found, monkeypatch):
    monkeypatch.setattr("irlvla.interventions.elsewhere", lambda *_: None)
    alone = dataclasses.replace(found["lead"], others=())
    made = versions(shot(world, 0), alone, rig_of(world, 0), SENSORS, 2, np.random.default_rng(0))
    assert {name: len(some) for name, some in made.items()} == {
        "original": 1, "masked": 1, "elsewhere": 0, "removed": 1, "other_removed": 0,
    }  # fmt: skip
    told = answers({"a": lambda features: {"sum": features.images.sum(axis=(1, 2, 3, 4)).astype(float)}}, world, [alone], draws=2)["a"][
        "sum"
    ]
    assert {name: rows.shape for name, rows in told.changes.items()} == {
        "masked": (1, 1), "elsewhere": (1, 2), "removed": (1, 1), "other_removed": (1, 1),
    }  # fmt: skip
    assert np.isnan(told.changes["elsewhere"]).all() and np.isnan(told.changes["other_removed"]).all()
    assert np.isfinite(told.changes["removed"]).all()


def test_answers_are_to_the_pictures_of_each_case_in_turn(world):
    three = cases(world, [0, 0, 0])["red"]

    def reds(features):
        pixels = features.images.astype(int)
        strong = (pixels[..., 0] > 150) & (pixels[..., 1] < 90)
        return {"red": strong.sum(axis=(1, 2, 3)).astype(float), "speed": features.ego_history[:, -1, 3]}

    told = answers({"eye": reds}, world, three, draws=2, batch=2)["eye"]
    red = told["red"]
    assert red.before.shape == (3,) and len(set(red.before)) == 1 and red.before[0] > 5
    # Without the lamp, or with a green one, there is less red; another lamp, or as much masked elsewhere, changes little.
    assert (red.changes["masked"] < -5).all() and (red.changes["swapped"] < -5).all()
    assert np.abs(red.changes["elsewhere"]).max() <= 3 and np.abs(red.changes["other_swapped"]).max() < np.abs(red.changes["swapped"]).min()
    assert all((rows == 0).all() for rows in told["speed"].changes.values())


def test_a_policy_answers_with_what_it_has(world):
    shown = shown_features(world, [0, 0], [world.features([0]).images[0]] * 2)
    parts = {
        ("plan",): None,
        ("plan", "sight"): PerceptionConfig(vision=VISION),
        ("plan", "sight", "action", "text"): PerceptionConfig(vision=VISION, language=LanguageConfig()),
    }
    for names, perception in parts.items():
        made = policy(perception)
        told = policy_answer(made, "lead")(shown)
        assert tuple(told) == names and all(values.shape == (2,) for values in told.values())
        np.testing.assert_allclose(told["plan"], length(plans(made, shown)))
        assert told["plan"][0] == told["plan"][1] > 0


def test_malformed_texts_are_no_answer(world, monkeypatch):
    shown = shown_features(world, [0, 0], [world.features([0]).images[0]] * 2)
    made = policy(PerceptionConfig(vision=VISION, language=LanguageConfig()))
    see = made.see

    def seen(*arguments):
        given = see(*arguments)
        facts = torch.tensor([[-1] * 7, [2, 1, 0, 0, 0, 0, 3]])
        return dataclasses.replace(given, semantics=dataclasses.replace(given.semantics, facts=facts))

    monkeypatch.setattr(made, "see", seen)
    told = policy_answer(made, "lead")(shown)
    assert np.isnan(told["action"][0]) and told["action"][1] == 3 and np.isnan(told["text"][0]) and told["text"][1] == 0
    assert policy_answer(made, "red")(shown)["text"][1] == 1


def test_masking_nothing_changes_nothing(world):
    images = world.features([0]).images[0]
    np.testing.assert_array_equal(masked(images, [np.zeros((0, 4), np.int64)] * len(images)), images)


def test_cases_of_two_causes_or_none_are_an_error(world, found):
    with pytest.raises(ValueError, match="2 cases of the causes \\['lead', 'red'\\]"):
        answers({}, world, list(found.values()))
    with pytest.raises(ValueError, match="0 cases"):
        answers({}, world, [])
