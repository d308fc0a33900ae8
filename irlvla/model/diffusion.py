"""Truncated, anchored diffusion over trajectories: schedule, anchors, normaliser, and smooth exploration with a density.

Everything here is a plain function of tensors; trajectories are normalised (`normalised`) unless a name says metres.
Source: DiffusionDrive (arXiv 2411.15139) for anchors and the truncated schedule, DPPO (arXiv 2409.00588) for densities along
the chain. Differs: exploration noise is smooth in time and has a fixed covariance.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

KINDS = ("truncated", "full", "regression")
"""Planners behind `DiffusionConfig.kind`."""
DIMENSIONS = 24
"""Numbers in a trajectory: 8 poses of x, y, heading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionConfig:
    """Noise schedule (DiffusionDrive's) and the deployed chain: start level and the DDIM steps' timesteps.

    `kind`: "truncated" denoises anchors from a little noise; "full" denoises trajectories from nothing but noise, there are no
    anchors, and queries differ in their noise alone; "regression" changes anchors in one shot, without noise. `full_diffusion`
    and `regression` give the alternatives' chains.
    """

    kind: str = "truncated"
    train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    truncation: int = 50
    start_timestep: int = 8
    timesteps: tuple[int, ...] = (10, 0)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of planner {self.kind!r}: {', '.join(KINDS)}")
        if self.kind == "regression" and self.timesteps != (0,):
            raise ValueError(f"regression is one shot: timesteps are (0,), not {self.timesteps}")


def regression() -> DiffusionConfig:
    """One shot from the anchors, without noise; with a single anchor, plain regression."""
    return DiffusionConfig(kind="regression", truncation=1, start_timestep=0, timesteps=(0,))


def full_diffusion(steps: int = 10) -> DiffusionConfig:
    """The whole chain from noise alone in some DDIM steps, evenly over the schedule."""
    timesteps = tuple(round(999 * (1 - step / steps)) for step in range(steps))
    return DiffusionConfig(kind="full", truncation=1000, start_timestep=999, timesteps=timesteps)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplorationConfig:
    """Smooth noise added after each denoising step while exploring.

    `along` and `across` are standard deviations at the end of the plan as a share of its length (not below
    `shortest` m); `floor` is independent noise in normalised units, which keeps the density proper; `density_floor` is added to the
    covariance when log-probabilities are computed, so that ratios do not explode over directions that are hardly explored. The
    density is that of the noise only where `density_floor` is 0; otherwise it is a slightly wider Gaussian with the same mean.
    """

    along: float = 0.10
    across: float = 0.03
    shortest: float = 6.0
    floor: float = 0.001
    density_floor: float = 0.02


@dataclass(frozen=True, slots=True)
class Exploration:
    """Factors of the exploration noise's covariance, one for each anchor (Cholesky-like), and of its density."""

    sampling: Float[Tensor, "anchors 24 28"]
    whitening: Float[Tensor, "anchors 24 24"]
    log_determinant: Float[Tensor, "anchors"]


def alphas_cumprod(config: DiffusionConfig) -> Float[Tensor, "timesteps"]:
    """Share of the signal's variance left at each timestep, in (0, 1], falling. `scaled_linear` betas."""
    betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.train_timesteps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0).float()


def noisy(
    clean: Float[Tensor, "*batch 8 3"], noise: Float[Tensor, "*batch 8 3"], alpha: Float[Tensor, "*batch"] | Float[Tensor, ""]
) -> Float[Tensor, "*batch 8 3"]:
    """The forward process: sqrt(alpha) clean + sqrt(1 - alpha) noise."""
    alpha = alpha[..., None, None]
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def previous_mean(
    state: Float[Tensor, "*batch 8 3"],
    clean: Float[Tensor, "*batch 8 3"],
    alpha: Float[Tensor, "*batch"],
    alpha_previous: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 8 3"]:
    """DDIM's deterministic step: from `state` at level `alpha` and the predicted clean trajectory to `alpha_previous`.

    Source: Song et al., DDIM (arXiv 2010.02502), eq. 12 with sigma = 0.
    """
    noise = (state - alpha[..., None, None].sqrt() * clean) / (1 - alpha[..., None, None]).sqrt().clamp(min=1e-6)
    return noisy(clean, noise, alpha_previous)


def normaliser_of(poses: Float[np.ndarray, "trajectories 8 3"]) -> tuple[list[float], list[float]]:
    """Offset and scale per channel that take the trajectories' range, a tenth widened, to [-1, 1]; y and heading stay centred."""
    high, low = poses.max((0, 1)), poses.min((0, 1))
    reach = np.maximum(np.abs(high), np.abs(low))
    offset = np.array([(high[0] + low[0]) / 2, 0.0, 0.0])
    scale = 1.05 * np.array([max((high[0] - low[0]) / 2, 1.0), max(reach[1], 1.0), max(reach[2], 0.1)])
    return offset.tolist(), scale.tolist()


def k_means(
    points: Float[np.ndarray, "points dimensions"], count: int, seed: int, iterations: int = 30
) -> Float[np.ndarray, "count dimensions"]:
    """Centres of Lloyd's K-means from a greedy spread start (k-means++), in order of their distance from the origin.

    Raises:
        ValueError: there are fewer points than centres.
    """
    if len(points) < count:
        raise ValueError(f"{count} centres asked of {len(points)} trajectories")
    generator = np.random.default_rng(seed)
    centres = points[generator.integers(len(points))][None]
    nearest = ((points - centres[0]) ** 2).sum(1)
    for _ in range(count - 1):
        share = np.cumsum(nearest) / max(nearest.sum(), 1e-12)
        centres = np.concatenate([centres, points[min(np.searchsorted(share, generator.random()), len(points) - 1)][None]])
        nearest = np.minimum(nearest, ((points - centres[-1]) ** 2).sum(1))
    for _ in range(iterations):
        distances = (points**2).sum(1)[:, None] - 2 * points @ centres.T + (centres**2).sum(1)
        members = distances.argmin(1)
        sums = np.zeros_like(centres)
        np.add.at(sums, members, points)
        counts = np.bincount(members, minlength=count)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    return centres[np.argsort((centres**2).sum(1))]


def exploration_of(anchors_in_metres: Float[Tensor, "anchors 8 3"], scale: Float[Tensor, "3"], config: ExplorationConfig) -> Exploration:
    """Covariance factors of the exploration noise around each anchor, on the anchors' device.

    Noise is a change of speed (along the path, growing as t^2 and t^3) and a bend (across it, likewise, with the heading
    that belongs to it), both scaled with the anchor's length, plus the floor.
    """
    anchors, scale = anchors_in_metres.double().cpu(), scale.double().cpu()
    count = len(anchors)
    start = torch.zeros(count, 1, 3, dtype=torch.float64)
    steps = torch.diff(torch.cat([start, anchors], dim=1), dim=1)
    length = steps[..., :2].norm(dim=-1).sum(1).clamp(min=config.shortest)
    curvature = steps[..., 2] / steps[..., :2].norm(dim=-1).clamp(min=1.0)
    cosine, sine = torch.cos(anchors[..., 2]), torch.sin(anchors[..., 2])
    time = torch.arange(1, 9, dtype=torch.float64) / 8
    columns = []
    for power in (2, 3):
        slide = config.along / math.sqrt(2) * length[:, None] * time**power
        columns.append(torch.stack([cosine * slide, sine * slide, curvature * slide], dim=-1))
        shift = config.across / math.sqrt(2) * length[:, None] * time**power
        bend = config.across / math.sqrt(2) * power * time ** (power - 1)
        columns.append(torch.stack([-sine * shift, cosine * shift, bend.expand(count, -1)], dim=-1))
    basis = (torch.stack(columns, dim=-1) / scale[:, None]).reshape(count, DIMENSIONS, len(columns))
    identity = torch.eye(DIMENSIONS, dtype=torch.float64)
    sampling = torch.cat([basis, config.floor * identity.expand(count, -1, -1)], dim=-1)
    covariance = basis @ basis.transpose(1, 2) + (config.floor**2 + config.density_floor**2) * identity
    factor = torch.linalg.cholesky(covariance)
    whitening = torch.linalg.solve_triangular(factor, identity.expand(count, -1, -1), upper=False)
    log_determinant = 2 * torch.log(torch.diagonal(factor, dim1=1, dim2=2)).sum(1)
    return Exploration(*(values.float().to(anchors_in_metres.device) for values in (sampling, whitening, log_determinant)))


def exploration_noise(exploration: Exploration, anchor: Int[Tensor, "*batch"], generator: torch.Generator) -> Float[Tensor, "*batch 8 3"]:
    """One draw of smooth noise around each given anchor, normalised."""
    normal = torch.randn(*anchor.shape, exploration.sampling.shape[-1], 1, generator=generator).to(anchor.device)
    return (exploration.sampling[anchor] @ normal).view(*anchor.shape, 8, 3)


def exploration_log_prob(
    exploration: Exploration, anchor: Int[Tensor, "*batch"], mean: Float[Tensor, "*batch 8 3"], value: Float[Tensor, "*batch 8 3"]
) -> Float[Tensor, "*batch"]:
    """Gaussian log-density of `value` around `mean`, averaged over the 24 dimensions.

    Source: DPPO averages over dimensions so that one clip range fits every size of action.
    """
    white = exploration.whitening[anchor] @ (value - mean).flatten(-2)[..., None]
    total = -0.5 * (white.square().sum((-2, -1)) + exploration.log_determinant[anchor] + DIMENSIONS * math.log(2 * math.pi))
    return total / DIMENSIONS
