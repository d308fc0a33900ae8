import math

import pytest
import torch

from irlvla.model.planner_loss import TURN_WEIGHT, PlannerWeights, focal_loss, human_path, nearest_anchor, path_loss, planner_loss, wrapped
from irlvla.model.policy import Proposals

from .test_policy import policy_and_inputs

ONLY_PATH = PlannerWeights(regression=0.0, classification=0.0, path=1.0)


def straight(speed=5.0):
    poses = torch.zeros(1, 8, 3)
    poses[0, :, 0] = speed * 0.5 * torch.arange(1, 9)
    return poses


def test_the_loss_counts_only_the_nearest_anchor():
    policy, _, _, _ = policy_and_inputs()
    human = policy.in_metres(policy.anchors[1:2]).expand(3, -1, -1)
    assert nearest_anchor(policy, human).tolist() == [1, 1, 1]
    outputs = [Proposals(torch.randn(3, 4, 8, 3), torch.zeros(3, 4)) for _ in range(2)]
    loss, parts = planner_loss(policy, outputs, human, PlannerWeights(regression=1.0, classification=0.0))
    distances = [(output.clean[:, 1] - policy.anchors[1]).abs().mean() for output in outputs]
    torch.testing.assert_close(loss, torch.stack(distances).mean())
    torch.testing.assert_close(parts["l1"], distances[-1])
    assert set(parts) == {"l1", "focal"}


def test_focal_loss_by_hand():
    assert float(focal_loss(torch.zeros(1, 1), torch.ones(1, 1))) == pytest.approx(0.25 * 0.25 * 0.6931, rel=1e-3)


def test_the_path_starts_where_the_car_is_and_passes_through_every_pose():
    human = torch.randn(2, 8, 3)
    path = human_path(human)
    assert path.shape == (2, 33, 3) and not path[:, 0].any()
    torch.testing.assert_close(path[:, 4::4], human)
    torch.testing.assert_close(path[:, 2], human[:, 0] / 2)
    turning = torch.zeros(1, 8, 3)
    turning[0, :, 2] = torch.tensor([3.0, -3.0, -3.0, -3.0, -3.0, -3.0, -3.0, -3.0])
    assert float(human_path(turning)[0, 6, 2]) == pytest.approx(math.pi, abs=1e-4)


def test_a_plan_along_the_path_costs_nothing_however_fast_and_one_beside_it_costs_its_distance_and_turn():
    path = human_path(straight())
    slow = straight(2.0)[:, None]
    assert float(path_loss(slow, path)) == pytest.approx(0.0, abs=1e-6)
    beside = slow + torch.tensor([0.0, 0.7, 0.1])
    assert float(path_loss(beside, path)) == pytest.approx(0.7 + TURN_WEIGHT * 0.1, rel=1e-4)
    assert float(path_loss(beside * torch.tensor([1.0, -1.0, -1.0]), path)) == pytest.approx(0.7 + TURN_WEIGHT * 0.1, rel=1e-4)


def test_poses_beyond_the_path_and_those_that_drive_elsewhere_do_not_count():
    path = human_path(straight())
    fast = straight(10.0)[:, None] + torch.tensor([0.0, 0.5, 0.0])
    with_gradient = fast.clone().requires_grad_()
    path_loss(with_gradient, path).backward()
    assert with_gradient.grad[0, 0, :4, 1].gt(0).all() and not with_gradient.grad[0, 0, 4:].any()
    for elsewhere in (torch.tensor([0.0, 4.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])):
        assert float(path_loss(straight()[:, None] + elsewhere, path)) == 0.0


def test_a_standing_human_says_nothing_of_the_road_ahead():
    path = human_path(torch.zeros(1, 8, 3))
    assert float(path_loss(straight()[:, None] + torch.tensor([0.0, 0.5, 0.0]), path)) == 0.0


def test_every_proposal_along_the_path_learns_from_it():
    policy, _, _, _ = policy_and_inputs()
    human = policy.in_metres(policy.anchors[2:3])
    clean = (policy.anchors[None] + torch.tensor([0.0, 0.02, 0.0])).requires_grad_()
    loss, parts = planner_loss(policy, [Proposals(clean, torch.zeros(1, 4))], human, ONLY_PATH)
    loss.backward()
    assert clean.grad[0, :3, :, 1].gt(0).all()
    torch.testing.assert_close(loss, parts["path"])


def test_angles_are_wrapped():
    torch.testing.assert_close(wrapped(torch.tensor([3.5 * math.pi, -math.pi, 0.3])), torch.tensor([-0.5 * math.pi, -math.pi, 0.3]))
