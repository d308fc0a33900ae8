"""Several processes that train one policy: each takes a part of every batch, and after every update all hold the same weights.

`torchrun` starts them and tells each its place in environment variables. Without it there is one process, and nothing here
does anything. What one process alone has to do (files, probes), the first does while the others wait.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

PARALLEL = ("replicated", "sharded")
"""How processes share a policy: each has all weights (DistributedDataParallel), or each keeps a part of every weight (FSDP)."""
PATIENCE = timedelta(hours=24)
"""How long processes wait for the first one, which may be preparing a whole split; torchrun ends them if it fails."""


@contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that torchrun started for as long as the block runs; nothing without torchrun."""
    if not {"RANK", "WORLD_SIZE"} <= set(os.environ):
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    yield
    # After an error the others may never answer again: only a good end is a common one.
    dist.destroy_process_group()


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's place among them; 0 is the first, which writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait() -> None:
    """Returns when all processes have come here."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process runs the block before all others do: what it writes there, they find."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def own_parts(scenes: int, accumulate: int) -> list[slice]:
    """The micro-batches of this process: consecutive rows of the whole batch, as even as may be.

    Args:
        scenes: rows of the whole batch.
        accumulate: micro-batches of a process.

    Raises:
        ValueError: there are fewer rows than micro-batches of all processes.
    """
    pieces = processes() * accumulate
    if accumulate < 1 or scenes < pieces:
        raise ValueError(f"a batch of {scenes} scenes cannot be cut into {processes()} processes x {accumulate} micro-batches")
    edges = [scenes * piece // pieces for piece in range(pieces + 1)]
    return [slice(edges[piece], edges[piece + 1]) for piece in range(rank() * accumulate, (rank() + 1) * accumulate)]


def agreed(parts: Mapping[str, Tensor]) -> dict[str, float]:
    """Named numbers averaged over the processes; all must give the same names."""
    values = torch.stack([part.detach().double() for part in parts.values()]).cpu()
    if dist.is_initialized():
        dist.all_reduce(values)
    return dict(zip(parts, (values / processes()).tolist(), strict=True))


def alike(*modules: nn.Module) -> None:
    """Gives every process the first one's weights and buffers."""
    if dist.is_initialized():
        for module in modules:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)


def spread(module: nn.Module, parallel: str) -> nn.Module:
    """A module whose gradients are the mean over all processes; the module itself where there is but one.

    Args:
        module: its `forward` gives the loss. If its weights are to be sharded, they must have been (`sharded`).
        parallel: one of PARALLEL.

    Raises:
        ValueError: an unknown name.
    """
    if parallel not in PARALLEL:
        raise ValueError(f"parallel is {parallel!r}, known are: {', '.join(PARALLEL)}")
    if not dist.is_initialized() or isinstance(module, FSDPModule):
        return module
    gpu = [torch.cuda.current_device()] if torch.cuda.is_available() else None
    learner = DistributedDataParallel(module, device_ids=gpu, find_unused_parameters=True)
    learner.broadcast_buffers = False  # all processes compute the same ones
    return learner


def sharded(module: nn.Module, parts: Sequence[nn.Module] = ()) -> None:
    """Leaves each process its share of every weight, in place; `parts` are gathered one after the other when they run."""
    if dist.is_initialized():
        for weight in module.parameters():
            weight.data = weight.data.contiguous()  # no other order of a convolution's channels can be sharded
        mesh = dist.init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (processes(),))
        for part in (*parts, module):
            fully_shard(part, mesh=mesh)


def reducing(module: nn.Module, last: bool) -> Any:
    """Context of one micro-batch's backward pass: gradients travel between processes only after the last one of an update."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(last)
    return module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext()


def whole(state: Any) -> Any:
    """A module's or optimiser's state with every shard gathered; all processes must ask for it at the same time."""
    if isinstance(state, Mapping):
        return {name: whole(value) for name, value in state.items()}
    return state.full_tensor() if isinstance(state, DTensor) else state


def share_out(optimiser: torch.optim.Optimizer) -> None:
    """Cuts the moments of an optimiser that were loaded whole as the weights are cut, in place."""
    for weight, moments in optimiser.state.items():
        for name, value in moments.items():
            if isinstance(weight, DTensor) and value.shape == weight.shape and not isinstance(value, DTensor):
                moments[name] = distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)


def synchronised(module: nn.Module) -> nn.Module:
    """The module with batch statistics taken over all processes; itself, changed in place, and as it was where there is but one.

    On GPUs torch's own synchronised layers do it, which the CPU lacks.
    """
    if processes() == 1:
        return module
    if torch.cuda.is_available():
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    # Of their own, so that their exchanges never come between those of gradients, whatever order a backward pass takes.
    group = dist.new_group()
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SynchronisedBatchNorm):
                setattr(parent, name, SynchronisedBatchNorm.like(child, group))
    return module


class SynchronisedBatchNorm(_BatchNorm):
    """Batch normalisation by mean and variance over all processes' values: what one process computes of the whole batch, up to rounding.

    Counts, means and variances of all processes are combined as those of parts of a sample (Chan, Golub, LeVeque 1983, eq. 2.1), for
    sums of squares lose digits. It costs one exchange of three numbers a channel in each pass.
    """

    group: Any = None

    @classmethod
    def like(cls, layer: _BatchNorm, group: Any) -> "SynchronisedBatchNorm":
        """A layer with another's weights, statistics and mode, whose processes talk in a group of their own."""
        new = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        new.load_state_dict(layer.state_dict())
        new.group = group
        return new.to(next(iter(layer.state_dict().values())).device).train(layer.training)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes after the channels will do."""

    def forward(self, values: Float[Tensor, "scenes channels *places"]) -> Float[Tensor, "scenes channels *places"]:
        if not self.training or processes() == 1:
            return super().forward(values)
        wide, places = values.float(), [0, *range(2, values.dim())]
        axes = (1, -1, *([1] * (values.dim() - 2)))
        # A process may have no pictures at all: it has no mean, but its say in the exchange.
        count = values.numel() // values.shape[1]
        mean = wide.sum(places) / max(1, count)
        variance = (wide - mean.view(axes)).square().sum(places) / max(1, count)
        own = torch.stack([torch.full_like(mean, count), mean, variance])
        counts, means, variances = _Gathered.apply(own, self.group).unbind(1)
        total = counts.sum(0).clamp(min=2)
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
        if self.track_running_stats and bool(counts.any()):
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * total / (total - 1), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return ((wide - mean.view(axes)) * scale.view(axes) + self.bias.view(axes)).to(values.dtype)


class _Gathered(torch.autograd.Function):
    """All processes' values along a new first axis; each is given back the gradients that all have for its own."""

    @staticmethod
    def forward(context: Any, values: Tensor, group: Any) -> Tensor:
        context.group = group
        every = values.new_zeros(processes(), *values.shape)
        every[rank()] = values
        dist.all_reduce(every, group=group)
        return every

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=context.group)
        return gradient[rank()], None
