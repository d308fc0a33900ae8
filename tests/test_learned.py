import dataclasses

import numpy as np
import pytest
import torch

from irlvla.learned import checkpoint_of, learned_plans, trained
from irlvla.train.imitation import fresh_policy, save_policy

from .stand_in import IMITATION, POLICY, MemoryStore

EVERY = np.arange(9)


class Dark(MemoryStore):
    """A store of black pictures."""

    def features(self, indices, previous=False):
        found = super().features(indices, previous)
        return dataclasses.replace(found, images=np.zeros_like(found.images))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, store = tmp_path_factory.mktemp("run"), MemoryStore(9)
    policy = fresh_policy(POLICY, store.human(EVERY).astype(np.float32), seed=0).eval()
    with torch.no_grad():  # a fresh planner begins at its anchors, whatever it sees
        for weights in policy.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))
    save_policy(checkpoint_of(folder, "imitation"), policy, IMITATION, store)
    return folder


def test_the_row_of_zeroed_images_is_imitation_in_the_dark_and_only_there_when_asked_for(folder):
    assert trained(folder) == ("imitation",)
    found = learned_plans(folder, MemoryStore(9), EVERY, ("imitation", "images_zeroed"))
    dark = learned_plans(folder, Dark(9), EVERY, ("imitation",))["imitation"]
    assert not np.array_equal(found["imitation"].poses, dark.poses)
    np.testing.assert_array_equal(found["images_zeroed"].poses, dark.poses)
    np.testing.assert_array_equal(found["images_zeroed"].previous, dark.previous)


def test_the_row_of_zeroed_images_needs_imitation(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint for 'images_zeroed'"):
        learned_plans(tmp_path, MemoryStore(9), EVERY, ("images_zeroed",))
