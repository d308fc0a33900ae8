"""Variants of the reward world model: queries by horizon, members and their doubt, and the control that does not look."""

import dataclasses

import numpy as np
import pytest
import torch

from irlvla.model.bev import SceneTokens
from irlvla.model.horizons import HorizonReader, whole_plan
from irlvla.model.reward_world_model import (
    FAILED_ANYWHERE,
    HEADS,
    OUTPUTS,
    RewardWorldModel,
    RewardWorldModelConfig,
    expected,
    head_loss,
    lowered,
    mixed,
    reward_loss,
)

SMALL = RewardWorldModelConfig(token_width=8, channels=4, width=16, pose_width=8, layers=1, query_width=8)
QUERIES = dataclasses.replace(SMALL, reader="queries")


def shaken(config, seed=0):
    """A fresh model with every weight moved a little, so that no part of it is zero."""
    torch.manual_seed(seed)
    model = RewardWorldModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def seen(scenes=3, proposals=5, seed=1):
    random = torch.Generator().manual_seed(seed)
    scene = SceneTokens(torch.randn(scenes, 6, 8, generator=random), torch.randn(scenes, 4, 32, 32, generator=random))
    poses = torch.cumsum(torch.rand(scenes, proposals, 8, 3, generator=random) * torch.tensor([3.0, 0.3, 0.05]), dim=2)
    return scene, torch.randn(scenes, 4, 7, generator=random), torch.eye(4)[:scenes], poses


def test_options_add_no_weights_to_the_plain_model_and_draw_no_chance_from_it():
    torch.manual_seed(0)
    plain = RewardWorldModel(SMALL)
    names = {name.split(".")[0] for name in plain.state_dict()}
    assert names == {"ego", "pose", "trajectory", "attention", "norms", "mixers", "norm", "heads", "temperature", "offset", "scale"}
    torch.manual_seed(0)
    several = RewardWorldModel(dataclasses.replace(SMALL, members=3)).state_dict()
    assert all(torch.equal(value, several[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("config", [SMALL, QUERIES, dataclasses.replace(QUERIES, members=2)])
def test_proposals_do_not_influence_each_other(config):
    model = shaken(config)
    scene, history, command, poses = seen()
    together = model(scene, history, command, poses)
    alone = model(scene, history, command, poses[:, 2:3])
    for name in HEADS:
        assert together[name].shape == (3, 5, OUTPUTS[name])
        torch.testing.assert_close(together[name][:, 2:3], alone[name], rtol=1e-4, atol=1e-5)


def test_one_failing_horizon_fails_the_plan_and_passing_all_of_them_passes_it():
    sure = torch.full((2, 8, 1), 20.0)
    sure[1, 5] = -20.0
    assert expected(whole_plan(sure, failed_anywhere=True)).tolist() == pytest.approx([1.0, 0.0], abs=1e-5)
    assert float(expected(whole_plan(sure, failed_anywhere=False))[1]) > 0.99
    three = torch.tensor([-20.0, -20.0, 20.0]).repeat(3, 8, 1)
    three[1, 2], three[2, 7] = torch.tensor([-20.0, 20.0, -20.0]), torch.tensor([20.0, -20.0, -20.0])
    assert expected(whole_plan(three, failed_anywhere=True)).tolist() == pytest.approx([1.0, 0.5, 0.0], abs=1e-5)


def test_the_whole_plans_chance_is_the_product_of_its_horizons():
    random = torch.Generator().manual_seed(2)
    one, three = torch.randn(4, 8, 1, generator=random, dtype=torch.float64), torch.randn(4, 8, 3, generator=random, dtype=torch.float64)
    torch.testing.assert_close(torch.sigmoid(whole_plan(one, True))[:, 0], torch.sigmoid(one[..., 0]).prod(1))
    share, whole = torch.softmax(three, dim=-1), torch.softmax(whole_plan(three, True), dim=-1)
    torch.testing.assert_close(whole[:, 2], share[..., 2].prod(1))
    torch.testing.assert_close(whole[:, 1] + whole[:, 2], share[..., 1:].sum(-1).prod(1))
    torch.testing.assert_close(whole.sum(1), torch.ones(4, dtype=torch.float64))


def test_certain_horizons_keep_loss_and_gradient_finite():
    for classes in (1, 3):
        for value in (-200.0, 0.0, 200.0):
            logits = torch.full((2, 8, classes), 0.0)
            logits[..., -1] = value
            logits.requires_grad_(True)
            loss = head_loss(whole_plan(logits, failed_anywhere=True), torch.tensor([0.0, 1.0]))
            loss.backward()
            assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


def test_a_horizon_is_judged_by_what_came_before_it():
    reader = HorizonReader(2, 16, 3, 4, 8, 8).eval()
    each, whole, tokens = torch.randn(1, 1, 48), torch.randn(1, 1, 4), torch.randn(1, 6, 8)
    changed = each.clone()
    changed[..., 5 * 6 :] += 1.0  # the last three horizons of two samples of three values
    before, after = reader(each, whole, tokens), reader(changed, whole, tokens)
    assert torch.equal(before[..., :5, :], after[..., :5, :]) and not torch.equal(before[..., 5, :], after[..., 5, :])
    with pytest.raises(ValueError, match="12 samples of a plan cannot be shared by 8 horizons"):
        HorizonReader(2, 12, 3, 4, 8, 8)


def test_queries_learn_which_horizon_fails_from_the_verdict_on_the_whole_plan():
    torch.manual_seed(0)
    model = RewardWorldModel(QUERIES)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    scene, history, command, _ = seen(4)
    random = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(60):
        poses = torch.cumsum(torch.rand(4, 12, 8, 3, generator=random) * torch.tensor([6.0, 0.1, 0.01]), dim=2)
        labels = torch.ones(4, 12, 8)
        labels[..., [HEADS.index(name) for name in FAILED_ANYWHERE]] = (
            (poses[:, :, -1:, 0] < 24).float().expand(-1, -1, len(FAILED_ANYWHERE))
        )
        loss, _ = reward_loss(model(scene, history, command, poses), labels, QUERIES.weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


def test_members_mix_by_probability_and_their_spread_lowers_the_reward():
    members = torch.tensor([[[2.0]], [[-1.0]]])
    torch.testing.assert_close(expected(mixed(members)), torch.sigmoid(members).mean(0)[..., 0])
    three = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(expected(mixed(three)), expected(three).mean(0))
    assert lowered(torch.tensor([[0.9], [0.7]]), 0.0).item() == pytest.approx(0.8)
    assert lowered(torch.tensor([[0.9], [0.1]]), 2.0).item() == 0.0


def test_a_pessimistic_model_expects_less_where_its_members_disagree():
    config = dataclasses.replace(SMALL, members=3)
    hopeful, gloomy = shaken(config), shaken(dataclasses.replace(config, pessimism=1.0))
    inputs = seen()
    members = hopeful.member_sub_scores(*inputs)
    for name in HEADS:
        each = getattr(members, name)
        assert each.shape == (3, 3, 5)
        torch.testing.assert_close(getattr(hopeful.sub_scores(*inputs), name), each.mean(0))
        torch.testing.assert_close(getattr(gloomy.sub_scores(*inputs), name), (each.mean(0) - each.std(0, unbiased=False)).clamp(min=0))
        torch.testing.assert_close(expected(hopeful(*inputs)[name]), each.mean(0))


@pytest.mark.parametrize("reader", ["trunk", "queries"])
def test_without_camera_the_scene_does_not_matter_but_plan_and_status_do(reader):
    scene, history, command, poses = seen()
    other = seen(seed=9)[0]
    looking, blind = (shaken(dataclasses.replace(SMALL, reader=reader, camera=camera)) for camera in (True, False))
    assert not torch.equal(looking(scene, history, command, poses)["nc"], looking(other, history, command, poses)["nc"])
    there, elsewhere = blind(scene, history, command, poses), blind(other, history, command, poses)
    assert all(torch.equal(there[name], elsewhere[name]) for name in HEADS)
    assert not torch.equal(there["nc"], blind(scene, history + 1, command, poses)["nc"])
    assert not torch.equal(there["nc"], blind(scene, history, command, poses + 1)["nc"])


def test_a_scene_that_counts_twice_weighs_as_two():
    logits, labels = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([[0.0, 0.5, 1.0], [1.0, 1.0, 0.0]])
    twice = head_loss(logits, labels, torch.tensor([[2.0] * 3, [1.0] * 3]))
    torch.testing.assert_close(twice, head_loss(logits[[0, 0, 1]], labels[[0, 0, 1]]))
    assert float(head_loss(logits, labels, torch.zeros(2, 3))) == 0.0


def test_unknown_options_are_errors():
    with pytest.raises(ValueError, match="unknown reader 'crystal ball'"):
        RewardWorldModelConfig(reader="crystal ball")
    with pytest.raises(ValueError, match="at least 1 member, not 0"):
        RewardWorldModelConfig(members=0)
    with pytest.raises(ValueError, match="pessimism 0.5 with 1 members"):
        RewardWorldModelConfig(pessimism=0.5)
