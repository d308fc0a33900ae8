"""Attention and lookup blocks that the bird's-eye view, the planner and the reward world model share."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

GRID_BACK, GRID_SIDE, GRID_SIZE = -8.0, -32.0, 64.0
"""The bird's-eye grid covers x in [-8, 56) m, y in [-32, 32) m of the ego frame; its first axis is x, its second y."""


def feed_forward(inputs: int, inner: int, outputs: int) -> nn.Sequential:
    """Two linear layers with a GELU between them."""
    return nn.Sequential(nn.Linear(inputs, inner), nn.GELU(), nn.Linear(inner, outputs))


class CrossAttention(nn.Module):
    """Queries attend to tokens; it starts as the identity.

    Few queries face many tokens, so it is the queries that are taken to the tokens' space and what they gathered that is
    taken back: the tokens themselves are never projected. Same function as the usual order, a third less work.
    """

    def __init__(self, width: int, token_width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * token_width)
        self.out = nn.Linear(heads * token_width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, queries: Float[Tensor, "scenes queries width"], tokens: Float[Tensor, "scenes tokens token_width"]
    ) -> Float[Tensor, "scenes queries width"]:
        scenes, count, _ = queries.shape
        query = self.query(self.norm(queries)).view(scenes, count * self.heads, -1)
        weights = torch.softmax(query @ tokens.to(query.dtype).transpose(1, 2) * query.shape[-1] ** -0.5, dim=-1)
        return queries + self.out((weights.to(query.dtype) @ tokens.to(query.dtype)).view(scenes, count, -1))


def squashed(grid: Float[Tensor, "scenes channels rows columns"]) -> Float[Tensor, "scenes channels rows columns"]:
    """Grid features in (-1, 1), as lookups want them: the supervised channels are logits."""
    return torch.tanh(0.5 * grid.float())


def grid_lookup(
    grid: Float[Tensor, "scenes channels rows columns"], points: Float[Tensor, "scenes queries points 2"]
) -> Float[Tensor, "scenes queries points_channels"]:
    """Bird's-eye features at points in the ego frame (m), bilinear, 0 outside; a query's points side by side."""
    x = (points[..., 0] - GRID_BACK) / GRID_SIZE * 2 - 1
    y = (points[..., 1] - GRID_SIDE) / GRID_SIZE * 2 - 1
    found = functional.grid_sample(grid.float(), torch.stack([y, x], dim=-1), align_corners=False)
    return found.permute(0, 2, 3, 1).flatten(2)


def footprints(
    poses: Float[Tensor, "scenes queries poses 3"], offsets: Float[Tensor, "offsets 2"]
) -> Float[Tensor, "scenes queries points 2"]:
    """Points fixed to the car (`offsets` ahead and left of the rear axle, m), carried along the poses."""
    cosine, sine = torch.cos(poses[..., 2:3]), torch.sin(poses[..., 2:3])
    x = poses[..., 0:1] + cosine * offsets[:, 0] - sine * offsets[:, 1]
    y = poses[..., 1:2] + sine * offsets[:, 0] + cosine * offsets[:, 1]
    return torch.stack([x, y], dim=-1).flatten(2, 3)
