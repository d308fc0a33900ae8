"""What a policy says that it sees, told in numbers."""

import dataclasses

import numpy as np
import pytest
import torch

from irlvla.model.elements import ElementConfig
from irlvla.model.language import LanguageConfig
from irlvla.model.policy import Policy
from irlvla.perceive import perception_quality

from .stand_in import POLICY, MemoryStore

PARTS = dataclasses.replace(
    POLICY.perception, elements=ElementConfig(detections=6, lines=6), language=LanguageConfig(width=32, inner=32, count=2)
)


def policy(perception):
    torch.manual_seed(0)
    return Policy(dataclasses.replace(POLICY, perception=perception)).eval()


def test_every_part_that_tells_something_has_numbers_with_intervals():
    report = perception_quality(policy(PARTS), MemoryStore(12), np.arange(12))
    assert report["scenes"] == 12 and report["logs"] == 4
    assert report["detection"].keys() >= {"ap", "ap_vehicle"} and report["map"].keys() >= {"ap", "ap_centre"}
    for numbers in (report["detection"], report["map"]):
        known = [one for one in numbers.values() if one["value"] is not None]
        assert known and all(one["ci95"][0] - 1e-9 <= one["value"] <= one["ci95"][1] + 1e-9 for one in known)
    assert report["facts"]["scenes"] == 12 and 0 <= report["facts"]["exact"]["value"] <= 1


def test_a_policy_without_such_parts_has_none_and_scenes_without_annotations_are_left_out():
    store = MemoryStore(12)
    store.annotated = np.arange(12) % 2 == 0
    assert perception_quality(policy(POLICY.perception), store, np.arange(12)) == {"scenes": 6, "logs": 4}
    store.annotated = np.zeros(12, bool)
    with pytest.raises(ValueError, match="none of the scenes has annotations"):
        perception_quality(policy(PARTS), store, np.arange(12))
    with pytest.raises(ValueError, match="no perception"):
        perception_quality(policy(None), store, np.arange(12))
