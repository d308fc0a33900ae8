"""Activation checkpointing: a block keeps its input alone and computes what is inside once more for the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module) -> int:
    """Lets every block of a module recompute its activations, in place; gradients stay what they were.

    A block is a member of a list or sequence of layers that is made of layers itself (a residual stage, a transformer layer); inside
    a block nothing is nested. Weights keep their names.

    Returns:
        How many blocks there are.
    """
    count = 0
    for child in module.children():
        members = list(child) if isinstance(child, nn.ModuleList | nn.Sequential) else []
        blocks = [member for member in members if len(list(member.children())) and type(member).forward is not nn.Module.forward]
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=partial(_contexts, block))
        count += len(blocks) + sum(recompute(member) for member in members if member not in blocks)
        count += 0 if members else recompute(child)
    return count


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    return nullcontext(), _still(block)


@contextmanager
def _still(block: nn.Module) -> Iterator[None]:
    """Batch statistics that follow the batches do not move: they have moved when the block was computed first."""
    layers = [layer for layer in block.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    kept = [(layer, layer.momentum, layer.num_batches_tracked.clone()) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:  # computing a block again is broken off by an exception as soon as all that was asked for is there
        for layer, momentum, batches in kept:
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(batches)
