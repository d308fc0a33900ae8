"""The lamp detector's own training: what it learns, and what it leaves alone."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from irlvla.model.bev import BirdsEyeConfig
from irlvla.model.vision import sight_of
from irlvla.train.imitation import fresh_policy
from irlvla.train.lamps import LampsConfig, fit_lamps
from irlvla.train.moments import humans, moments

from ..stand_in import POLICY, MemoryStore

LOOKING = dataclasses.replace(POLICY, perception=dataclasses.replace(POLICY.perception, birds_eye=BirdsEyeConfig(lamps=True)))
FEW = LampsConfig(steps=30, batch=8, warmup=2, rate=3e-3)


@pytest.fixture(scope="module")
def store():
    return MemoryStore()


def policy_of(store, config=LOOKING):
    return fresh_policy(config, humans(store, moments(store)), 0)


def logits(policy, store):
    with torch.inference_mode():
        return policy.eval().perception.birds_eye.lamp(sight_of(store.features(np.arange(len(store))))).numpy()


def test_the_detector_tells_red_from_green_and_nothing_else_has_changed(store):
    policy = policy_of(store)
    before = copy.deepcopy(policy.state_dict())
    fit_lamps(FEW, policy, store, moments(store), 0)
    told = logits(policy, store)
    assert told[store.red].min() > told[~store.red].max()
    changed = {name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("perception.birds_eye.lamps.") for name in changed)


def test_the_same_seed_gives_the_same_detector(store):
    first, second = policy_of(store), policy_of(store)
    few = dataclasses.replace(FEW, steps=3)
    for policy in (first, second):
        fit_lamps(few, policy, store, moments(store), 0)
    assert np.array_equal(logits(first, store), logits(second, store))


@pytest.mark.parametrize("red", [True, False])
def test_where_all_or_no_lights_are_red_nothing_is_taught(red):
    store = MemoryStore()
    store.red[:] = red
    policy = policy_of(store)
    before = copy.deepcopy(policy.state_dict())
    fit_lamps(FEW, policy, store, moments(store), 0)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_moments_without_annotations_teach_nothing():
    store = MemoryStore()
    store.annotated[:] = False
    policy = policy_of(store)
    before = copy.deepcopy(policy.state_dict())
    fit_lamps(FEW, policy, store, moments(store), 0)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_view_without_a_detector_says_so(store):
    policy = policy_of(store, POLICY)
    fit_lamps(FEW, policy, store, moments(store), 0)
    with pytest.raises(ValueError, match="no lamp detector"):
        logits(policy, store)
