"""What PPO makes of rewards: advantages, their weights and clip ranges along the chain, and which scenes are worth sampling."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from irlvla.model.attention import feed_forward
from irlvla.model.policy import EgoEncoder
from irlvla.train.loop import batch_rows

ADVANTAGES = ("group", "critic", "both", "anchor")
NORMALISATIONS = ("fixed", "std")
CLIP_GROWTH = 3.0
"""How fast the clip range grows along the chain (DPPO's clip_ploss_coef_rate)."""


class Critic(nn.Module):
    """The expected reward of a scene, from its tokens and the ego's status."""

    def __init__(self, token_width: int, width: int = 64) -> None:
        super().__init__()
        self.ego = EgoEncoder(width)
        self.token = nn.Linear(token_width, width)
        self.out = feed_forward(3 * width, width, 1)

    def forward(
        self,
        tokens: Float[Tensor, "scenes tokens token_width"],
        ego_history: Float[Tensor, "scenes 4 7"],
        command: Float[Tensor, "scenes 4"],
    ) -> Float[Tensor, "scenes"]:
        """The expected reward; tokens as in `SceneTokens`, the rest as in `Features`."""
        seen = torch.relu(self.token(tokens))
        return self.out(torch.cat([seen.mean(1), seen.amax(1), self.ego(ego_history, command)], dim=1))[:, 0]


def advantages(
    rewards: Float[Tensor, "scenes samples"],
    failed: Bool[Tensor, "scenes samples"],
    values: Float[Tensor, "scenes"],
    anchor: Int[Tensor, "scenes samples"],
    kind: str,
    scale: float,
    normalisation: str = "fixed",
) -> Float[Tensor, "scenes samples"]:
    """Centred and normalised advantages; a proposal that fails NC or DAC gets at most -1.

    Args:
        rewards: in [0, 1].
        failed: NC or DAC failures.
        values: the critic's expectation of each scene's reward.
        anchor: the anchor behind each sample.
        kind: what is subtracted: "group" (the scene's mean), "critic" (its value, and the batch's mean of what is left), "both" (the mean
            of these two) or "anchor" (the mean of the scene's samples of the same anchor: one that is alone with it teaches nothing).
        scale: what one unit of advantage is in reward if the normalisation is "fixed".
        normalisation: "fixed", or "std": the spread of the scene's group, which is noise where the group is narrow.

    Raises:
        ValueError: an unknown kind or normalisation.

    Example:
        >>> rewards, none, anchor = torch.tensor([[1.0, 0.5]]), torch.tensor([[False, False]]), torch.tensor([[0, 0]])
        >>> advantages(rewards, none, torch.zeros(1), anchor, "group", 0.25)
        tensor([[ 1., -1.]])
    """
    if kind not in ADVANTAGES:
        raise ValueError(f"unknown kind of advantage {kind!r}: {', '.join(ADVANTAGES)}")
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"unknown normalisation {normalisation!r}: {', '.join(NORMALISATIONS)}")
    group = rewards - rewards.mean(1, keepdim=True)
    critic = rewards - values[:, None]
    critic = critic - critic.mean()
    centred = {"group": group, "critic": critic, "both": 0.5 * (group + critic)}.get(kind)
    if centred is None:
        same = (anchor[:, :, None] == anchor[:, None, :]).to(rewards)
        centred = rewards - (same @ rewards[..., None])[..., 0] / same.sum(2)
    centred = centred / (scale if normalisation == "fixed" else rewards.std(1, keepdim=True) + 1e-4)
    return torch.where(failed, centred.clamp(max=-1.0), centred)


def denoising_weights(steps: int, gamma_denoising: float) -> Float[Tensor, "steps"]:
    """gamma_denoising to the power of the steps still to go."""
    return gamma_denoising ** torch.arange(steps - 1, -1, -1, dtype=torch.float32)


def clip_ratios(steps: int, last: float, first: float | None = None) -> list[float]:
    """The clip range of each denoising step, growing from `first` to `last` (None: `last` everywhere).

    Source: DPPO (arXiv 2409.00588) and its code, which clips the early, noisy steps more tightly than the late ones.

    Example:
        >>> clip_ratios(2, 0.2), clip_ratios(2, 0.2, first=0.05)
        ([0.2, 0.2], [0.05, 0.2])
    """
    if first is None or steps == 1:
        return [last] * steps
    share = [math.expm1(CLIP_GROWTH * index / (steps - 1)) / math.expm1(CLIP_GROWTH) for index in range(steps)]
    return [first + (last - first) * part for part in share]


def scene_rows(spread: Float[Tensor, "scenes"], batch: int, share: float, step: int, seed: int) -> Int[np.ndarray, "batch"]:
    """Rows of an iteration's scenes: `batch_rows`, some of which give way to scenes whose rewards are known to differ.

    Args:
        spread: running estimate of each scene's spread of rewards, negative where the scene was not sampled yet (such a scene counts as
            an average one).
        batch: number of scenes.
        share: of the batch that is drawn in proportion to the spread, without repetition; 0 draws evenly.
        step: the iteration.
        seed: of the run.
    """
    rows = batch_rows(len(spread), batch, step, seed)
    count = round(share * len(rows))
    if count == 0:
        return rows
    random = np.random.default_rng((seed, step, 1))
    kept = random.choice(rows, len(rows) - count, replace=False)
    others = np.setdiff1d(np.arange(len(spread)), kept)
    estimate = spread.numpy().astype(np.float64)
    known = estimate >= 0
    weight = np.where(known, estimate, estimate[known].mean() if known.any() else 1.0)[others] + 1e-3
    return np.sort(np.concatenate([kept, random.choice(others, count, replace=False, p=weight / weight.sum())]))


def follow_spread(spread: Float[Tensor, "scenes"], rows: Int[np.ndarray, "batch"], seen: Float[Tensor, "batch"], keep: float = 0.5) -> None:
    """Moves the running estimate of some scenes, in place, towards the spread that was just seen."""
    old, new = spread[rows], seen.to(spread)
    spread[rows] = torch.where(old < 0, new, keep * old + (1 - keep) * new)
