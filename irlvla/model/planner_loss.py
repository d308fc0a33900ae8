"""What the planner minimises when it learns from a driven trajectory.

The trajectory of the nearest anchor is to be the human's, its confidence the highest (DiffusionDrive). On top of that, what the human drove shows
where the road runs: every proposal that lies along that path, at whatever speed, can be drawn onto it. One anchor in twenty learns how
fast to drive then, most of them learn where to steer.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from irlvla.model.policy import Policy, Proposals

PATH_STEPS = 4
"""Points of the human's path between two poses of its trajectory."""
ALONG, BESIDE, TURNED = 1.0, 3.0, 0.6
"""A pose lies along the path if a point of it is not further ahead or behind (m), beside (m) and turned (rad) than this."""
TURN_WEIGHT = 4.0
"""How many metres beside the path one radian of heading counts: what the car gets off in its own length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerWeights:
    """Weights of the planner's losses: L1 of normalised poses of the nearest anchor, focal loss of the confidences, and `path` (1/m) of the
    distance from the human's path of all proposals along it. The first two are DiffusionDrive's, which has no third."""

    regression: float = 8.0
    classification: float = 10.0
    path: float = 0.0


def nearest_anchor(policy: Policy, human: Float[Tensor, "scenes 8 3"]) -> Int[Tensor, "scenes"]:
    """The anchor whose positions lie nearest the human's on average; `human` in metres."""
    anchors = policy.in_metres(policy.anchors)[..., :2]
    return (anchors[None] - human[:, None, :, :2]).norm(dim=-1).mean(-1).argmin(1)


def planner_loss(
    policy: Policy, outputs: list[Proposals], human: Float[Tensor, "scenes 8 3"], weights: PlannerWeights
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Losses of the proposals, averaged over layers; of full diffusion L1 of all, and nothing else.

    Args:
        policy: for anchors and normaliser; queries must be all anchors in order.
        outputs: `Policy.denoise`'s answer.
        human: the logged future, m and rad.
        weights: of the losses.

    Returns:
        The loss, and its parts of the last layer by name.
    """
    wanted = policy.normalised(human)
    if policy.config.diffusion.kind == "full":
        distances = [(proposals.clean - wanted[:, None]).abs().mean() for proposals in outputs]
        return weights.regression * torch.stack(distances).mean(), {"l1": distances[-1].detach()}
    nearest = nearest_anchor(policy, human)
    rows = torch.arange(len(human), device=human.device)
    positive = functional.one_hot(nearest, policy.config.anchors).float()
    path = human_path(human) if weights.path else None
    total = torch.zeros((), device=human.device)
    parts: dict[str, Tensor] = {}
    for proposals in outputs:
        distance = (proposals.clean[rows, nearest] - wanted).abs().mean()
        focal = focal_loss(proposals.confidence, positive)
        total = total + (weights.regression * distance + weights.classification * focal) / len(outputs)
        parts = {"l1": distance.detach(), "focal": focal.detach()}
        if path is not None:
            off = path_loss(policy.in_metres(proposals.clean), path)
            total = total + weights.path * off / len(outputs)
            parts["path"] = off.detach()
    return total, parts


def human_path(human: Float[Tensor, "scenes 8 3"]) -> Float[Tensor, "scenes points 3"]:
    """Where the human drove: x, y (m) and heading (rad) at PATH_STEPS points a pose, from where the car is now."""
    poses = torch.cat([torch.zeros_like(human[:, :1]), human], dim=1)
    move = poses[:, 1:] - poses[:, :-1]
    move = torch.cat([move[..., :2], wrapped(move[..., 2:])], dim=2)
    share = torch.arange(PATH_STEPS, device=human.device)[:, None] / PATH_STEPS
    return torch.cat([(poses[:, :-1, None] + share * move[:, :, None]).flatten(1, 2), poses[:, -1:]], dim=1)


def path_loss(poses: Float[Tensor, "scenes queries 8 3"], path: Float[Tensor, "scenes points 3"]) -> Float[Tensor, ""]:
    """How far poses (m, rad) that lie along a path are off it: metres beside, and TURN_WEIGHT a radian; mean over those poses, 0 if there are none.

    Poses beyond its end, where nobody knows the road, do not count; nor do those far beside or turned away, which drive elsewhere.
    """
    with torch.no_grad():
        nearest = (poses[..., None, :2] - path[:, None, None, :, :2]).square().sum(-1).argmin(-1)
    scene = torch.arange(len(path), device=path.device)[:, None, None]
    point = path[scene, nearest]
    away, cosine, sine = poses[..., :2] - point[..., :2], torch.cos(point[..., 2]), torch.sin(point[..., 2])
    ahead = cosine * away[..., 0] + sine * away[..., 1]
    beside = (cosine * away[..., 1] - sine * away[..., 0]).abs()
    turned = wrapped(poses[..., 2] - point[..., 2]).abs()
    along: Bool[Tensor, "scenes queries 8"] = (ahead.abs() < ALONG) & (beside < BESIDE) & (turned < TURNED)
    return torch.where(along, beside + TURN_WEIGHT * turned, 0.0).sum() / along.sum().clamp(min=1)


def wrapped(angle: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Angles (rad) in [-pi, pi)."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi


def focal_loss(
    logits: Float[Tensor, "scenes anchors"], positive: Float[Tensor, "scenes anchors"], alpha: float = 0.25, gamma: float = 2.0
) -> Float[Tensor, ""]:
    """Sigmoid focal loss, summed over anchors, averaged over scenes (Lin et al., arXiv 1708.02002, eq. 5)."""
    share = torch.sigmoid(logits)
    hit = positive * share + (1 - positive) * (1 - share)
    weight = (alpha * positive + (1 - alpha) * (1 - positive)) * (1 - hit) ** gamma
    return (weight * functional.binary_cross_entropy_with_logits(logits, positive, reduction="none")).sum(1).mean()
