"""Judging a plan horizon by horizon: one query a sub-score and horizon, and what the horizons say of the whole plan."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from irlvla.model.attention import CrossAttention
from irlvla.types import POSES

SURE = -1e-7
"""Highest log-probability that is told from certainty, so that its complement stays above 0 in single precision."""


class HorizonReader(nn.Module):
    """Queries, one a sub-score and horizon, read the scene's tokens once a scene and then each plan up to their horizon.

    What a plan meets is already in its encoding (it looked at the grid and attended to the tokens), so that the many queries
    need not attend to the tokens once more for every plan: that would be 64 times today's attention.
    Source: DreamerAD's 8 reward queries for 8 horizons. Differs: queries read the scene once for all plans.
    """

    def __init__(self, heads: int, samples: int, pose_width: int, width: int, query_width: int, token_width: int) -> None:
        super().__init__()
        if samples % POSES:
            raise ValueError(f"{samples} samples of a plan cannot be shared by {POSES} horizons")
        self.queries = nn.Parameter(0.5 * torch.randn(heads * POSES, query_width))
        self.scene = CrossAttention(query_width, token_width)
        self.moment = nn.Linear(samples // POSES * pose_width, query_width)
        self.whole = nn.Linear(width, query_width)
        self.norm = nn.LayerNorm(query_width)
        later = torch.triu(torch.full((POSES, POSES), -torch.inf), diagonal=1)
        self.register_buffer("later", later.repeat(heads, 1), persistent=False)

    def forward(
        self,
        each: Float[Tensor, "scenes proposals samples_widths"],
        whole: Float[Tensor, "scenes proposals width"],
        tokens: Float[Tensor, "scenes tokens token_width"],
    ) -> Float[Tensor, "scenes proposals heads 8 query_width"]:
        """What every query found in every plan.

        Args:
            each: encoded samples of each plan, in the order of time.
            whole: each plan's encoding.
            tokens: of the scene.
        """
        asked = self.scene(self.queries.expand(len(tokens), -1, -1), tokens)
        moments = functional.gelu(self.moment(each.unflatten(2, (POSES, -1)))) + self.whole(whole)[:, :, None]
        match = torch.einsum("sqw,sphw->spqh", asked, moments) / math.sqrt(asked.shape[-1]) + self.later
        found = torch.softmax(match, dim=-1) @ moments + asked[:, None]
        return self.norm(found.unflatten(2, (-1, POSES)) + moments[:, :, None])


class HorizonHead(nn.Module):
    """Logits of every sub-score at every horizon; at first most plans are taken to pass each horizon."""

    def __init__(self, width: int, classes: tuple[int, ...], hopeful: tuple[int, ...]) -> None:
        super().__init__()
        self.classes = classes
        self.inner = nn.Linear(width, width)
        self.weight = nn.Parameter(torch.randn(len(classes), max(classes), width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.zeros(len(classes), max(classes)))
        with torch.no_grad():
            for head in hopeful:
                self.bias[head, classes[head] - 1] = 3.0

    def forward(self, asked: Float[Tensor, "scenes proposals heads 8 width"]) -> tuple[Float[Tensor, "scenes proposals 8 _"], ...]:
        """Logits at each horizon, by sub-score."""
        logits = torch.einsum("spnhw,ncw->spnhc", functional.gelu(self.inner(asked)), self.weight) + self.bias[:, None]
        return tuple(logits[:, :, head, :, :classes] for head, classes in enumerate(self.classes))


def whole_plan(logits: Float[Tensor, "*proposals 8 classes"], failed_anywhere: bool) -> Float[Tensor, "*proposals classes"]:
    """Logits of the whole plan from those at each horizon.

    Args:
        logits: 1 class (passing) or 3 (0, 0.5, 1) at each horizon.
        failed_anywhere: the worst horizon decides: chances to pass one horizon, given the earlier ones, multiply. Otherwise
            the horizons' logits are averaged.

    Example:
        >>> even = torch.zeros(8, 1)
        >>> round(1 / float(torch.sigmoid(whole_plan(even, failed_anywhere=True))))
        256
    """
    if not failed_anywhere:
        return logits.mean(-2)
    if logits.shape[-1] == 1:
        passed = functional.logsigmoid(logits).sum(-2).clamp(max=SURE)
        return passed - torch.log(-torch.expm1(passed))
    share = torch.log_softmax(logits, dim=-1)
    best = share[..., 2].sum(-1)
    some = torch.logsumexp(share[..., 1:], dim=-1).sum(-1).clamp(max=SURE)
    half = some + torch.log(-torch.expm1((best - some).clamp(max=SURE)))
    return torch.stack([torch.log(-torch.expm1(some)), half, best], dim=-1)
