"""What tests ask of several processes: torchrun runs this file, each process comes through here, results lie in the folder that is named."""

import dataclasses
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from irlvla.train import distributed, imitation

from ..stand_in import IMITATION, POLICY, MemoryStore

CONFIG = dataclasses.replace(IMITATION, steps=4, planner_steps=2, batch=6, planner_batch=6, candidates=1, save_every=2)
BLIND = dataclasses.replace(CONFIG, policy=dataclasses.replace(POLICY, perception=None))
RUNS = {
    "seeing": CONFIG,
    "blind": dataclasses.replace(BLIND, accumulate=2),
    "sharded": dataclasses.replace(CONFIG, parallel="sharded", checkpointing=True),
    "sharded_blind": dataclasses.replace(BLIND, parallel="sharded", accumulate=2),
}


def fit(config, folder, **options):
    return imitation.fit(config, MemoryStore(), MemoryStore(6, 1), folder, **options)


def normalised(layer, values, rows):
    """A normalisation's output for some rows, gradients of a loss that weighs every value, and the statistics that are left."""
    own = values[rows].clone().requires_grad_(True)
    answer = layer(own)
    (answer * torch.linspace(-1, 1, values.numel()).view(values.shape)[rows]).sum().backward()
    return {"answer": answer.detach(), "gradient": own.grad, "weight_gradient": layer.weight.grad, **layer.state_dict()}


def values_of_a_batch():
    return torch.randn(5, 3, 4, 2, generator=torch.Generator().manual_seed(0)) * 3 + 100


def a_layer():
    layer = nn.BatchNorm2d(3).train()
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    return layer


def interrupted(folder):
    """A run that all processes leave in its fifth step, then go on with."""
    follow = imitation.follow

    def stopping(average, policy, decay, step):
        if step == 3:
            raise KeyboardInterrupt
        follow(average, policy, decay, step)

    imitation.follow = stopping
    try:
        fit(CONFIG, folder)
    except KeyboardInterrupt:
        imitation.follow = follow
        fit(CONFIG, folder, resume=True)


def main(what: str, folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.joined():
        if what == "fail":
            if distributed.rank() == 1:
                raise ValueError("scene0007 is missing")
            distributed.wait()
        layer = distributed.synchronised(nn.Sequential(a_layer()))[0]
        rows = [slice(0, 3), slice(3, 5)][distributed.rank()]
        save_file(normalised(layer, values_of_a_batch(), rows), folder / f"norm-{distributed.rank()}.safetensors")
        for name, config in RUNS.items():
            fit(config, folder / name)
        interrupted(folder / "interrupted")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
