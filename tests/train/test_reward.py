"""The reward world model's loss over members."""

import pytest
import torch

from irlvla.model.reward_world_model import HEADS, RewardWorldModelConfig, reward_loss
from irlvla.train.reward import bootstrap, members_loss


def test_the_loss_of_two_members_is_the_mean_of_their_losses():
    generator = torch.Generator().manual_seed(0)
    weights = RewardWorldModelConfig().weights
    logits = {name: torch.randn(2, 3, 4, 3 if name in ("nc", "ddc") else 1, generator=generator) for name in HEADS}
    labels, counted = torch.ones(3, 4, 8), bootstrap(["a", "b", "b"], 2, seed=1)
    total, parts = members_loss(logits, labels, weights, counted)
    alone = [reward_loss({name: values[member] for name, values in logits.items()}, labels, weights, counted[member]) for member in (0, 1)]
    assert float(total) == pytest.approx(float(alone[0][0] + alone[1][0]) / 2)
    assert set(parts) == set(HEADS)
