import dataclasses

import pytest
import torch

from irlvla.model.attention import footprints, grid_lookup
from irlvla.model.bev import ahead_classes
from irlvla.model.diffusion import DiffusionConfig, full_diffusion, regression
from irlvla.model.policy import LOCAL_TURN, REACH, Policy, PolicyConfig
from irlvla.model.reward_world_model import HEADS, RewardWorldModel, RewardWorldModelConfig, expected, resampled, reward_loss
from irlvla.score.epdms import epdms
from irlvla.train.imitation_loss import denoising_loss

from ..sights import noise, sight
from ..stand_in import POLICY


def policy_and_inputs(config=POLICY, scenes=3):
    torch.manual_seed(0)
    policy = Policy(config).eval()
    anchors = torch.zeros(config.anchors, 8, 3)
    anchors[..., 0] = torch.linspace(2, 30, config.anchors)[:, None] * torch.linspace(1 / 8, 1, 8)
    policy.set_normaliser(anchors, torch.zeros(3), torch.tensor([30.0, 10.0, 1.0]), torch.Generator().manual_seed(0))
    for layer in policy.layers:
        torch.nn.init.normal_(layer.residual.weight, std=0.1)
    return policy, noise(scenes), torch.randn(scenes, 4, 7), torch.eye(4)[torch.arange(scenes) % 4]


def test_a_fresh_planner_returns_its_anchors():
    policy, images, history, command = policy_and_inputs()
    for layer in policy.layers:
        torch.nn.init.zeros_(layer.residual.weight)
    plans = policy.deployed(policy.remember(policy.see(sight(images), history, command).scene, history, command)).clean
    torch.testing.assert_close(plans, policy.anchors.expand(3, -1, -1, -1))


def test_anchors_do_not_see_each_other():
    policy, images, history, command = policy_and_inputs()
    memory = policy.remember(policy.see(sight(images), history, command).scene, history, command)
    every = torch.arange(4).expand(3, -1)
    both = policy.denoise(memory, policy.start(every), torch.full_like(every, 8), every)[-1]
    one = policy.denoise(memory, policy.start(every[:, 2:3]), torch.full((3, 1), 8), every[:, 2:3])[-1]
    torch.testing.assert_close(both.clean[:, 2:3], one.clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.confidence[:, 2:3], one.confidence, rtol=1e-4, atol=1e-5)


def test_a_chain_step_by_step_is_the_deployed_chain_and_the_plan_is_its_most_confident_anchor():
    policy, images, history, command = policy_and_inputs()
    memory = policy.remember(policy.see(sight(images), history, command).scene, history, command)
    every = torch.arange(4).expand(3, -1)
    state, made = policy.step_mean(memory, policy.start(every), torch.zeros_like(every), every)
    final, _ = policy.step_mean(memory, state, torch.ones_like(every), every)
    deployed = policy.deployed(memory)
    assert torch.equal(final, deployed.clean) and torch.equal(made.confidence, deployed.confidence)
    best = deployed.confidence.argmax(1)
    assert torch.equal(policy.plan(memory), policy.in_metres(deployed.clean[torch.arange(3), best]))


def test_regression_is_one_shot_from_the_anchors_without_noise():
    policy, images, history, command = policy_and_inputs(dataclasses.replace(POLICY, diffusion=regression()))
    memory = policy.remember(policy.see(sight(images), history, command).scene, history, command)
    every = torch.arange(4).expand(3, -1)
    assert torch.equal(policy.start(every), policy.anchors.expand(3, -1, -1, -1))
    (first, last) = policy.denoise(memory, policy.start(every), torch.zeros_like(every), every)
    assert torch.equal(policy.deployed(memory).clean, last.clean) and not torch.equal(first.clean, last.clean)


def test_full_diffusion_starts_from_noise_and_knows_no_anchor():
    policy, images, history, command = policy_and_inputs(dataclasses.replace(POLICY, diffusion=full_diffusion(4)))
    assert policy.config.diffusion.timesteps == (999, 749, 500, 250)
    memory = policy.remember(policy.see(sight(images), history, command).scene, history, command)
    every = torch.arange(4).expand(3, -1)
    start = policy.start(every)
    torch.testing.assert_close(start[0], policy.start_noise, rtol=0.01, atol=0.01)
    deployed = policy.deployed(memory)
    torch.testing.assert_close(policy.plan(memory), policy.in_metres(deployed.clean[:, 0]))
    policy.anchors.add_(0.3)
    torch.testing.assert_close(policy.deployed(memory).clean, deployed.clean)
    human = policy.in_metres(policy.anchors[:1]).expand(3, -1, -1)
    loss, parts = denoising_loss(policy, memory, human, torch.Generator().manual_seed(0))
    assert torch.isfinite(loss) and set(parts) == {"l1"}


def test_an_unknown_kind_of_planner_is_an_error():
    with pytest.raises(ValueError, match="unknown kind of planner 'vanilla': truncated, full, regression"):
        DiffusionConfig(kind="vanilla")
    with pytest.raises(ValueError, match=r"timesteps are \(0,\), not \(10, 0\)"):
        DiffusionConfig(kind="regression")


def test_a_query_looks_the_grid_up_where_it_wants_to_within_its_reach():
    policy, images, history, command = policy_and_inputs(dataclasses.replace(POLICY, deformable=2))
    layer = policy.layers[0]
    poses, values = policy.in_metres(policy.anchors).expand(3, -1, -1, -1), torch.randn(3, 4, POLICY.width)
    torch.nn.init.zeros_(layer.offsets.weight)
    torch.nn.init.constant_(layer.offsets.bias, 100.0)
    points = layer.points(values, poses, policy.footprint)
    torch.testing.assert_close(points[:, :, :40], footprints(poses, policy.footprint))
    torch.testing.assert_close(points[:, :, 40:].unflatten(2, (8, 2)), (poses[..., :2] + REACH)[:, :, :, None].expand(-1, -1, -1, 2, -1))
    memory = policy.remember(policy.see(sight(images), history, command).scene, history, command)
    torch.nn.init.normal_(layer.lookup.weight)
    torch.nn.init.constant_(layer.offsets.bias, 0.1)
    every = torch.arange(4).expand(3, -1)
    policy.denoise(memory, policy.start(every), torch.full_like(every, 8), every)[-1].clean.sum().backward()
    assert float(layer.offsets.bias.grad.abs().sum()) > 0


def test_local_corrections_move_the_first_layer_s_poses_in_their_own_frame():
    policy, images, history, command = policy_and_inputs(dataclasses.replace(POLICY, local=True))
    memory = policy.remember(policy.see(sight(images), history, command).scene, history, command)
    every = torch.arange(4).expand(3, -1)
    torch.nn.init.zeros_(policy.layers[1].residual.weight)
    first, last = policy.denoise(memory, policy.start(every), torch.full_like(every, 8), every)
    torch.testing.assert_close(last.clean, first.clean)
    ahead, left, turn = 2.0, 1.0, 3.0
    policy.layers[1].correction[-1].bias.data = torch.tensor([ahead, left, turn])
    last = policy.denoise(memory, policy.start(every), torch.full_like(every, 8), every)[-1]
    before, after = policy.in_metres(first.clean), policy.in_metres(last.clean)
    cosine, sine = torch.cos(before[..., 2]), torch.sin(before[..., 2])
    torch.testing.assert_close(after[..., 0], before[..., 0] + cosine * ahead - sine * left, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after[..., 1], before[..., 1] + sine * ahead + cosine * left, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after[..., 2], before[..., 2] + LOCAL_TURN * turn, rtol=1e-4, atol=1e-4)
    assert policy.layers[0].correction is None


def test_local_corrections_learn_from_the_grid_around_a_pose_and_nothing_is_local_without_a_camera():
    policy, images, history, command = policy_and_inputs(dataclasses.replace(POLICY, local=True))
    layer, poses = policy.layers[1], policy.in_metres(policy.anchors).expand(3, -1, -1, -1)
    torch.nn.init.normal_(layer.correction[-1].weight)
    grid = torch.zeros(3, policy.config.perception.birds_eye.channels, 32, 32, requires_grad=True)
    layer.corrections(torch.randn(3, 4, POLICY.width), poses, grid, policy.around)[0, 0, 0].sum().backward()
    rows = grid.grad[0].abs().sum(0).nonzero()
    x, y = poses[0, 0, 0, :2].tolist()
    assert len(rows) and grid.grad[1:].abs().sum() == 0
    centres = torch.tensor([-8.0, -32.0]) + 2 * (rows + 0.5)
    assert float((centres - torch.tensor([x, y])).abs().max()) < 6 + 2
    blind, _, history, command = policy_and_inputs(dataclasses.replace(POLICY, local=True, perception=None))
    assert blind.layers[1].correction is None and blind.plan(blind.remember(None, history, command)).shape == (3, 8, 3)


def test_scenes_of_a_batch_do_not_influence_each_other():
    policy, images, history, command = policy_and_inputs()
    whole = policy.plan(policy.remember(policy.see(sight(images), history, command).scene, history, command))
    alone = policy.plan(policy.remember(policy.see(sight(images[1:2]), history[1:2], command[1:2]).scene, history[1:2], command[1:2]))
    torch.testing.assert_close(whole[1:2], alone, rtol=0.05, atol=0.05)


def test_without_a_camera_the_same_planner_plans_from_ego_status_alone():
    policy, _, history, command = policy_and_inputs(dataclasses.replace(POLICY, perception=None))
    assert policy.plan(policy.remember(None, history, command)).shape == (3, 8, 3)


def test_the_grid_is_looked_up_where_the_ego_frame_says():
    grid = torch.zeros(1, 1, 32, 32)
    grid[0, 0, 10, 20] = 1.0
    centre = torch.tensor([-8.0 + 2 * 10.5, -32.0 + 2 * 20.5])
    found = grid_lookup(grid, torch.stack([centre, centre + torch.tensor([2.0, 0.0]), torch.tensor([500.0, 0.0])])[None, None])
    torch.testing.assert_close(found[0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_footprints_turn_with_the_car():
    poses = torch.tensor([[[[10.0, 5.0, torch.pi / 2]]]])
    points = footprints(poses, torch.tensor([[4.0, 1.0]]))
    torch.testing.assert_close(points[0, 0, 0], torch.tensor([9.0, 9.0]))


def test_distance_classes_follow_from_the_targets():
    targets = torch.zeros(3, 4, 32, 32)
    targets[0, 3, 20:, 15] = 1
    targets[1, 2, 9, 16] = targets[1, 1, 9, 16] = targets[1, 2, 7, 3] = 1
    assert ahead_classes(targets).tolist() == [[4, 6], [6, 1], [6, 6]]


def test_expected_sub_scores_are_in_range_and_epdms_of_them_is_one_number_a_candidate():
    torch.manual_seed(0)
    policy, images, history, command = policy_and_inputs()
    model = RewardWorldModel(RewardWorldModelConfig(width=32, pose_width=16)).eval()
    scene = policy.see(sight(images), history, command).scene
    poses = policy.in_metres(policy.anchors).expand(3, -1, -1, -1)
    scores = model.sub_scores(scene, history, command, poses)
    assert scores.nc.shape == (3, 4) and bool((scores.ec_defined == 0).all())
    assert bool(((epdms(scores) >= 0) & (epdms(scores) <= 1)).all())
    torch.testing.assert_close(expected(torch.tensor([[[0.0, 0.0, 0.0]]])), torch.tensor([[0.5]]))
    _, parts = reward_loss(model(scene, history, command, poses), torch.full((3, 4, 8), 0.5), model.config.weights)
    assert set(parts) == {"nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc"}


def test_every_head_learns_from_its_own_label():
    labels = torch.tensor([0.5, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    sure = {}
    for name, label in zip(HEADS, labels.tolist(), strict=True):
        classes = [-20.0, -20.0, -20.0] if name in ("nc", "ddc") else [40 * label - 20]
        if len(classes) == 3:
            classes[round(2 * label)] = 20.0
        sure[name] = torch.tensor(classes).expand(1, 1, -1)
    total, parts = reward_loss(sure, labels.expand(1, 1, -1), RewardWorldModelConfig().weights)
    assert float(total) < 1e-6
    for index, name in enumerate(HEADS):
        wrong = labels.clone()
        wrong[index] = 1.0 if name == "nc" else 1 - labels[index]
        _, parts = reward_loss(sure, wrong.expand(1, 1, -1), RewardWorldModelConfig().weights)
        assert [other for other, part in parts.items() if float(part) > 1] == [name]
        torch.testing.assert_close(expected(sure[name])[0, 0], labels[index], atol=1e-6, rtol=0)


def test_candidates_do_not_influence_each_other():
    policy, images, history, command = policy_and_inputs()
    model = RewardWorldModel(RewardWorldModelConfig(width=32, pose_width=16)).eval()
    scene, poses = policy.see(sight(images), history, command).scene, policy.in_metres(policy.anchors).expand(3, -1, -1, -1)
    torch.testing.assert_close(
        model(scene, history, command, poses)["ep"][:, 1:2], model(scene, history, command, poses[:, 1:2])["ep"], rtol=1e-4, atol=1e-5
    )


def test_resampling_keeps_given_poses_and_halves_the_steps_between():
    poses = torch.randn(1, 2, 8, 3)
    dense = resampled(poses, 16)
    torch.testing.assert_close(dense[:, :, 1::2], poses)
    torch.testing.assert_close(dense[:, :, 0], poses[:, :, 0] / 2)


def test_configs_of_policies_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PolicyConfig().width = 3
