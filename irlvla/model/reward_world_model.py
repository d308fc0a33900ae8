"""The reward world model: sub-scores of any candidate trajectory, from what the policy sees.

A candidate is read pose by pose (where it is, how it moves, what the bird's-eye grid shows under the car there), attends to
the scene's tokens, and is judged by one head a sub-score. EC is not predicted: it follows from two plans alone.

Options: one query a sub-score and horizon instead of one head on the whole plan (`reader`), several members of heads whose
disagreement is the model's doubt (`members`, `pessimism`), and the control that never sees the scene (`camera`).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import CrossAttention, feed_forward, footprints, grid_lookup, squashed
from irlvla.model.bev import SceneTokens
from irlvla.model.horizons import HorizonHead, HorizonReader, whole_plan
from irlvla.model.policy import EgoEncoder
from irlvla.types import SubScores

HEADS = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc")
THREE_VALUED = ("nc", "ddc")
"""Sub-scores that take 0, 0.5 and 1; EP is continuous, the others are 0 or 1."""
FAILED_ANYWHERE = ("nc", "dac", "tlc", "ttc")
"""Sub-scores that a failure at any horizon decides for the whole plan."""
OUTPUTS = {name: 3 if name in THREE_VALUED else 1 for name in HEADS}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardWorldModelConfig:
    """Architecture, and the loss's weights in the order of HEADS (Source: GTRS, arXiv 2506.06664).

    `reader`: "trunk" (heads on the encoded plan) or "queries" (one query a sub-score and horizon, `query_width` wide, reads scene
    tokens and plan; after DreamerAD's 8 queries for 8 horizons). `members`: sets of heads on one trunk, each from its own initial
    weights and its own bootstrap of the logs. `pessimism`: how many times their spread is taken off each expected sub-score.
    `camera`: False judges by ego status, command and plan alone.
    """

    token_width: int = 96
    channels: int = 24
    width: int = 128
    pose_width: int = 64
    layers: int = 2
    samples: int = 16
    weights: tuple[float, ...] = (3.0, 3.0, 1.0, 3.0, 2.0, 4.0, 2.0, 1.0)
    reader: str = "trunk"
    query_width: int = 64
    members: int = 1
    pessimism: float = 0.0
    camera: bool = True

    def __post_init__(self) -> None:
        if self.reader not in ("trunk", "queries"):
            raise ValueError(f"unknown reader {self.reader!r}: trunk or queries")
        if self.members < 1:
            raise ValueError(f"a reward world model has at least 1 member, not {self.members}")
        if self.pessimism < 0 or (self.pessimism > 0 and self.members == 1):
            raise ValueError(
                f"pessimism {self.pessimism} with {self.members} members: it weighs the spread of at least 2, and is not negative"
            )


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
        if config.reader == "queries":
            self.reader = HorizonReader(len(HEADS), config.samples, config.pose_width, width, config.query_width, config.token_width)
        self.heads = self._new_head()
        self.more_heads = nn.ModuleList(self._new_head() for _ in range(config.members - 1))
        self.register_buffer("temperature", torch.ones(len(HEADS)))
        self.register_buffer("offset", torch.zeros(3))
        self.register_buffer("scale", torch.ones(3))

    def _new_head(self) -> nn.Module:
        if self.config.reader == "queries":
            return HorizonHead(self.config.query_width, tuple(OUTPUTS.values()), tuple(HEADS.index(name) for name in FAILED_ANYWHERE))
        return feed_forward(self.config.width, 2 * self.config.width, sum(OUTPUTS.values()))

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
        return {name: mixed(logits) for name, logits in self.member_logits(scene, ego_history, command, poses).items()}

    def member_logits(
        self,
        scene: SceneTokens,
        ego_history: Float[Tensor, "scenes 4 7"],
        command: Float[Tensor, "scenes 4"],
        poses: Float[Tensor, "scenes proposals 8 3"],
    ) -> dict[str, Float[Tensor, "members scenes proposals classes"]]:
        """Logits of each sub-score by each member; arguments as in `forward`."""
        ego = self.ego(ego_history, command)
        if not self.config.camera:
            scene = SceneTokens(torch.zeros_like(scene.tokens[:, :1]), torch.zeros_like(scene.grid))
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
        values = self.norm(values)
        heads = (self.heads, *self.more_heads)
        if self.config.reader == "queries":
            asked = self.reader(each, values, tokens)
            every = [[whole_plan(part, name in FAILED_ANYWHERE) for name, part in zip(HEADS, head(asked), strict=True)] for head in heads]
        else:
            every = [head(values).split(list(OUTPUTS.values()), dim=-1) for head in heads]
        # One member's logits stay the views they are: a copy has another layout, and sums over it another last bit.
        if len(every) == 1:
            return {name: every[0][index][None] for index, name in enumerate(HEADS)}
        return {name: torch.stack([parts[index] for parts in every]) for index, name in enumerate(HEADS)}

    def member_sub_scores(
        self,
        scene: SceneTokens,
        ego_history: Float[Tensor, "scenes 4 7"],
        command: Float[Tensor, "scenes 4"],
        poses: Float[Tensor, "scenes proposals 8 3"],
    ) -> SubScores:
        """Expected sub-scores by each member, arrays of (members, scenes, proposals); EC is left undefined."""
        logits = self.member_logits(scene, ego_history, command, poses)
        values = {name: expected(logits[name] / self.temperature[index]) for index, name in enumerate(HEADS)}
        return SubScores(**values, ec=torch.zeros_like(values["nc"]), ec_defined=torch.zeros_like(values["nc"]))

    def sub_scores(
        self,
        scene: SceneTokens,
        ego_history: Float[Tensor, "scenes 4 7"],
        command: Float[Tensor, "scenes 4"],
        poses: Float[Tensor, "scenes proposals 8 3"],
    ) -> SubScores:
        """Expected sub-scores, less `pessimism` times the members' spread; EC is left undefined."""
        members = self.member_sub_scores(scene, ego_history, command, poses)
        values = {name: lowered(getattr(members, name), self.config.pessimism) for name in HEADS}
        return SubScores(**values, ec=torch.zeros_like(values["nc"]), ec_defined=torch.zeros_like(values["nc"]))


def lowered(members: Float[Tensor, "members *proposals"], pessimism: float) -> Float[Tensor, "*proposals"]:
    """Mean over members less `pessimism` times their standard deviation, not below 0.

    Example:
        >>> lowered(torch.tensor([[0.9, 0.5], [0.7, 0.5]]), 1.0)
        tensor([0.7000, 0.5000])
    """
    if pessimism == 0:
        return members.mean(0)
    return (members.mean(0) - pessimism * members.std(0, unbiased=False)).clamp(min=0)


def mixed(members: Float[Tensor, "members *proposals classes"]) -> Float[Tensor, "*proposals classes"]:
    """Logits of the members' mean probability."""
    if len(members) == 1:
        return members[0]
    if members.shape[-1] == 1:
        return torch.logsumexp(functional.logsigmoid(members), dim=0) - torch.logsumexp(functional.logsigmoid(-members), dim=0)
    return torch.logsumexp(torch.log_softmax(members, dim=-1), dim=0) - math.log(len(members))


def expected(logits: Float[Tensor, "*proposals classes"]) -> Float[Tensor, "*proposals"]:
    """Expected value of a sub-score, in [0, 1]."""
    if logits.shape[-1] == 1:
        return torch.sigmoid(logits[..., 0])
    share = torch.softmax(logits, dim=-1)
    return (0.5 * share[..., 1] + share[..., 2]).clamp(0, 1)


def head_loss(
    logits: Float[Tensor, "*proposals classes"],
    labels: Float[Tensor, "*proposals"],
    counted: Float[Tensor, "*proposals"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of one sub-score; labels in [0, 1] (EP's are fractions: binary cross-entropy is then a proper regression).

    Args:
        logits: of one sub-score.
        labels: its measured values.
        counted: how often each proposal counts; None counts all once.
    """
    how = "mean" if counted is None else "none"
    if logits.shape[-1] == 1:
        loss = functional.binary_cross_entropy_with_logits(logits[..., 0], labels, reduction=how)
    else:
        loss = functional.cross_entropy(logits.flatten(0, -2), (2 * labels).round().long().flatten(), reduction=how)
    return loss if counted is None else (loss.flatten() * counted.flatten()).sum() / counted.sum().clamp(min=1)


def reward_loss(
    logits: dict[str, Float[Tensor, "scenes proposals classes"]],
    labels: Float[Tensor, "scenes proposals 8"],
    weights: tuple[float, ...],
    counted: Float[Tensor, "scenes"] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Weighted mean of the heads' losses, and each of them by name; `counted` says how often each scene counts."""
    every = None if counted is None else counted[:, None].expand(labels.shape[:2])
    parts = {name: head_loss(logits[name], labels[..., index], every) for index, name in enumerate(HEADS)}
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
