"""The reward world model: sub-scores of any candidate trajectory, from what the policy sees.

A candidate is read pose by pose (where it is, how it moves, what the bird's-eye grid shows under the car there), attends to
the scene's tokens, and is judged by one head a sub-score. EC is not predicted: it follows from two plans alone.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import CrossAttention, feed_forward, footprints, grid_lookup, squashed
from irlvla.model.bev import SceneTokens
from irlvla.model.policy import EgoEncoder
from irlvla.types import SubScores

HEADS = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")
THREE_VALUED = ("nc", "ddc")
"""Sub-scores that take 0, 0.5 and 1; EP is continuous, the others are 0 or 1."""
OUTPUTS = {name: 3 if name in THREE_VALUED else 1 for name in HEADS}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardWorldModelConfig:
    """Architecture, and the loss's weights in the order of HEADS (Source: GTRS, arXiv 2506.06664)."""

    token_width: int = 96
    channels: int = 24
    width: int = 128
    pose_width: int = 64
    layers: int = 2
    samples: int = 16
    weights: tuple[float, ...] = (3.0, 3.0, 1.0, 3.0, 2.0, 4.0, 2.0, 1.0)


class RewardWorldModel(nn.Module):
    """Judges candidate trajectories: logits of all sub-scores but EC, and their calibrated expectations."""

    def __init__(self, config: RewardWorldModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        points = torch.tensor([(1.4, 0.0), (4.05, 1.15), (4.05, -1.15), (-1.1, 1.15), (-1.1, -1.15), (8.0, 0.0)])
        self.register_buffer("points", points, persistent=False)
        self.ego = EgoEncoder(width)
        self.pose = feed_forward(len(points) * config.channels + 8, 2 * config.pose_width, config.pose_width)
        self.trajectory = nn.Linear(config.samples * config.pose_width + 48, width)
        self.attention = nn.ModuleList(CrossAttention(width, config.token_width) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.layers))
        self.mixers = nn.ModuleList(feed_forward(width, 2 * width, width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.heads = feed_forward(width, 2 * width, sum(OUTPUTS.values()))
        self.register_buffer("temperature", torch.ones(len(HEADS)))
        self.register_buffer("offset", torch.zeros(3))
        self.register_buffer("scale", torch.ones(3))

    def forward(
        self,
        scene: SceneTokens,
        ego_history: Float[Tensor, "scenes 4 7"],
        command: Float[Tensor, "scenes 4"],
        poses: Float[Tensor, "scenes proposals 8 3"],
    ) -> dict[str, Float[Tensor, "scenes proposals classes"]]:
        """Logits of each sub-score: 3 classes for NC and DDC, 1 otherwise (EP: a logit of its expected value).

        Args:
            scene: scene tokens of the frozen vision part.
            ego_history: as in `Features`.
            command: one-hot.
            poses: candidates in the ego frame, m and rad.
        """
        ego = self.ego(ego_history, command)
        tokens = scene.tokens.float()
        dense = resampled(poses, self.config.samples)
        found = grid_lookup(squashed(scene.grid), footprints(dense, self.points)).unflatten(2, (self.config.samples, -1))
        step = torch.diff(torch.cat([torch.zeros_like(dense[:, :, :1]), dense], dim=2), dim=2)
        place = torch.cat([(dense - self.offset) / self.scale, step[..., :2], 10 * step[..., 2:], time_of(dense)], dim=-1)
        each = functional.gelu(self.pose(torch.cat([found, place], dim=-1))).flatten(2)
        change = torch.diff(torch.cat([torch.zeros_like(poses[:, :, :1]), poses], dim=2), dim=2)
        shape = torch.cat(
            [((poses - self.offset) / self.scale).flatten(2), (change / torch.tensor([5.0, 1.0, 0.2], device=poses.device)).flatten(2)],
            dim=-1,
        )
        values = self.trajectory(torch.cat([each, shape], dim=-1)) + ego[:, None]
        for attention, norm, mixer in zip(self.attention, self.norms, self.mixers, strict=True):
            values = attention(values, tokens)
            values = values + mixer(norm(values))
        return dict(zip(HEADS, self.heads(self.norm(values)).split(list(OUTPUTS.values()), dim=-1), strict=True))

    def sub_scores(
        self,
        scene: SceneTokens,
        ego_history: Float[Tensor, "scenes 4 7"],
        command: Float[Tensor, "scenes 4"],
        poses: Float[Tensor, "scenes proposals 8 3"],
    ) -> SubScores:
        """Expected sub-scores; EC is left undefined."""
        logits = self(scene, ego_history, command, poses)
        values = {name: expected(logits[name] / self.temperature[index]) for index, name in enumerate(HEADS)}
        return SubScores(**values, ec=torch.zeros_like(values["nc"]), ec_defined=torch.zeros_like(values["nc"]))


def expected(logits: Float[Tensor, "*proposals classes"]) -> Float[Tensor, "*proposals"]:
    """Expected value of a sub-score, in [0, 1]."""
    if logits.shape[-1] == 1:
        return torch.sigmoid(logits[..., 0])
    share = torch.softmax(logits, dim=-1)
    return (0.5 * share[..., 1] + share[..., 2]).clamp(0, 1)


def head_loss(logits: Float[Tensor, "*proposals classes"], labels: Float[Tensor, "*proposals"]) -> Float[Tensor, ""]:
    """Cross-entropy of one sub-score; labels in [0, 1] (EP's are fractions: binary cross-entropy is then a proper regression)."""
    if logits.shape[-1] == 1:
        return functional.binary_cross_entropy_with_logits(logits[..., 0], labels)
    return functional.cross_entropy(logits.flatten(0, -2), (2 * labels).round().long().flatten())


def reward_loss(
    logits: dict[str, Float[Tensor, "scenes proposals classes"]], labels: Float[Tensor, "scenes proposals 8"], weights: tuple[float, ...]
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Weighted mean of the heads' losses, and each of them by name."""
    parts = {name: head_loss(logits[name], labels[..., index]) for index, name in enumerate(HEADS)}
    total = sum(weight * parts[name] for name, weight in zip(HEADS, weights, strict=True)) / sum(weights)
    return total, {name: part.detach() for name, part in parts.items()}


def resampled(poses: Float[Tensor, "scenes proposals 8 3"], samples: int) -> Float[Tensor, "scenes proposals samples 3"]:
    """Poses at equal times over (0, 4] s, linear between the given ones (which start at rest in the origin)."""
    full = torch.cat([torch.zeros_like(poses[:, :, :1]), poses], dim=2)
    time = torch.arange(1, samples + 1, device=poses.device) * (8 / samples)
    low = time.floor().long().clamp(max=7)
    share = (time - low)[:, None]
    return full[:, :, low] * (1 - share) + full[:, :, low + 1] * share


def time_of(dense: Float[Tensor, "scenes proposals samples 3"]) -> Float[Tensor, "scenes proposals samples 2"]:
    """Share of the horizon passed at each sample, and its square."""
    time = torch.arange(1, dense.shape[2] + 1, device=dense.device) / dense.shape[2]
    return torch.stack([time, time**2], dim=-1).expand(*dense.shape[:2], -1, -1)
