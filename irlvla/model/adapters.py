"""Low-rank adapters: a few numbers beside a frozen model's matrices, enough to teach it a task (LoRA, arXiv 2106.09685)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")
"""Matrices that get an adapter: those of attention."""


class LowRank(nn.Module):
    """A frozen linear layer plus a product of two thin matrices; at first the product is 0."""

    def __init__(self, frozen: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.frozen, self.scale = frozen, scale
        self.down = nn.Parameter(torch.randn(rank, frozen.in_features, device=frozen.weight.device) / frozen.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, rank, device=frozen.weight.device))

    def forward(self, values: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        change = (values.to(self.down.dtype) @ self.down.T) @ self.up.T
        return self.frozen(values) + (self.scale * change).to(values.dtype)


def adapt(decoder: nn.Module, rank: int, scale: float = 2.0) -> list[nn.Parameter]:
    """Freezes a decoder in place, puts adapters beside the matrices of its attention, and gives the adapters' parameters.

    Args:
        decoder: a language model of transformers; its layers' matrices are named as in ADAPTED.
        rank: of the adapters.
        scale: of their product.

    Raises:
        ValueError: the rank is below 1, or the decoder has no matrix of these names.
    """
    if rank < 1:
        raise ValueError(f"adapters of rank {rank}: at least 1 is needed")
    decoder.requires_grad_(False)
    found = [
        (parent, name, child)
        for parent in decoder.modules()
        for name, child in parent.named_children()
        if name in ADAPTED and isinstance(child, nn.Linear)
    ]
    if not found:
        raise ValueError(f"{type(decoder).__name__} has no linear layers named {', '.join(ADAPTED)}")
    parameters = []
    for parent, name, child in found:
        adapter = LowRank(child, rank, scale)
        setattr(parent, name, adapter)
        parameters += [adapter.down, adapter.up]
    return parameters
