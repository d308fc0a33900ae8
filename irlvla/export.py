"""A policy as one graph that needs none of this code: pictures, ego history and command to plans (`torch.export`).

Calibration becomes part of the graph, as a car's cameras do not move: what follows from it is computed once. The number of moments at a
time stays free.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from irlvla import run
from irlvla.data.store import Store
from irlvla.learned import checkpoint_of
from irlvla.model.bev import BirdsEye
from irlvla.model.cameras import ray_features, rays
from irlvla.model.lift import lookup
from irlvla.model.policy import Policy
from irlvla.model.vision import Sight
from irlvla.rollout import load_policy
from irlvla.run_data import data_of
from irlvla.types import Rig

PROGRAM = "policy.pt2"
"""The graph's file; `torch.export.load` reads it."""
INPUTS = {
    "images": "uint8 (moments, views, height, width, 3), RGB",
    "ego_history": "float32 (moments, 4, 7): x, y (m), heading (rad), velocity x, y (m/s), acceleration x, y (m/s2); oldest first",
    "command": "float32 (moments, 4), one of left, straight, right, unknown is 1",
}
OUTPUTS = {
    "plan": "float32 (moments, 8, 3): x, y (m), heading (rad) of the rear axle every 0.5 s, in the ego frame",
    "trajectories": "float32 (moments, anchors, 8, 3), as plan: one an anchor, the plan among them",
    "confidences": "float32 (moments, anchors), adding up to 1; the plan has the largest",
}


class FixedBirdsEye(BirdsEye):
    """A bird's-eye view whose cameras are always the same ones, all of them there."""

    def fix(self, sight: Sight, rows: int, columns: int) -> None:
        """Computes all that follows from one moment's calibration, for feature maps of `rows` x `columns` (coarse ones half of it)."""
        found = lookup(sight, rows, columns, self.config.cells, self.config.heights)
        views = torch.zeros(self.config.cells**2).index_add(0, found.cells, torch.ones_like(found.weights[:, 0]))
        ahead = sight.ego_from_camera[0, :, 0, 2] + 0.001 * sight.ego_from_camera[0, :, 1, 2] - 0.01 * sight.intrinsics[0, :, 0]
        order = ahead.argsort(descending=True)[: self.config.front_views]
        calibration = [values[0, order] for values in (sight.intrinsics, sight.distortion, sight.ego_from_camera)]
        # Of lamps at the fine maps' size, of image tokens at the coarse ones'.
        fine, coarse = (ray_features(rays(*size, *calibration), calibration[2]) for size in ((rows, columns), (rows // 2, columns // 2)))
        constants = {"pixels": found.pixels.long(), "weights": found.weights, "cells": found.cells, "geometry": found.geometry}
        constants |= {"views": views.clamp(min=1)[:, None], "order": order, "fine": fine, "coarse": coarse}
        for name, value in constants.items():
            self.register_buffer(f"fixed_{name}", value.clone(), persistent=False)

    def _lifted(
        self, fine: Float[Tensor, "scenes views width rows columns"], sight: Sight
    ) -> Float[Tensor, "scenes fine_width cells cells"]:
        scenes, side, width = fine.shape[0], self.config.cells, self.config.fine_width
        pixels = self.lift(fine.permute(0, 1, 3, 4, 2)).reshape(scenes, -1, width).float()
        shown = (pixels[:, self.fixed_pixels] * self.fixed_weights[..., None]).sum(2)
        scale, shift = self.showing(self.fixed_geometry).float().chunk(2, dim=1)
        shown = shown * (1 + scale) + shift
        seen = torch.zeros(scenes, side * side, width, device=fine.device).index_add(1, self.fixed_cells, shown)
        cells = self.place(self.places).float() + seen / self.fixed_views
        return cells.to(fine.dtype).transpose(1, 2).unflatten(2, (side, side))

    def _directions(
        self, sight: Sight, views: Int[Tensor, "scenes chosen"], rows: int, columns: int
    ) -> Float[Tensor, "scenes chosen rows columns places"]:
        kept = (self.fixed_fine, self.fixed_coarse)
        (directions,) = [one for one in kept if one.view(len(self.fixed_order), -1, one.shape[-1]).shape[1] == rows * columns]
        return directions.view(1, len(self.fixed_order), rows, columns, -1).expand(views.shape[0], -1, -1, -1, -1)


class Deployed(nn.Module):
    """A policy with one rig: what is exported."""

    def __init__(self, policy: Policy, sight: Sight) -> None:
        super().__init__()
        self.policy = policy
        self.register_buffer("intrinsics", sight.intrinsics)
        self.register_buffer("distortion", sight.distortion)
        self.register_buffer("ego_from_camera", sight.ego_from_camera)

    def forward(
        self,
        images: UInt8[Tensor, "moments views height width 3"],
        ego_history: Float[Tensor, "moments 4 7"],
        command: Float[Tensor, "moments 4"],
    ) -> tuple[Float[Tensor, "moments 8 3"], Float[Tensor, "moments anchors 8 3"], Float[Tensor, "moments anchors"]]:
        """OUTPUTS of INPUTS."""
        moments, views = images.shape[:2]
        sight = Sight(
            images=images,
            intrinsics=self.intrinsics.expand(moments, -1, -1),
            distortion=self.distortion.expand(moments, -1, -1),
            ego_from_camera=self.ego_from_camera.expand(moments, -1, -1, -1),
            valid=torch.ones(moments, views, dtype=torch.bool, device=images.device),
        )
        scene = self.policy.see(sight, ego_history, command).scene
        proposals = self.policy.deployed(self.policy.remember(scene, ego_history, command))
        trajectories = self.policy.in_metres(proposals.clean)
        best = proposals.confidence.argmax(1)
        plan = trajectories.gather(1, best[:, None, None, None].expand(-1, 1, 8, 3))[:, 0]
        return plan, trajectories, torch.softmax(proposals.confidence, dim=1)


def deployed(policy: Policy, rig: Rig, height: int, width: int) -> Deployed:
    """A policy with the cameras of one moment built in.

    Args:
        policy: is changed, it sees through these cameras from now on.
        rig: one moment's cameras; those of each later moment must be the same.
        height: of a picture.
        width: of a picture.

    Raises:
        ValueError: the policy has no eyes, or writes; the rig is a batch, or lacks a camera.
    """
    if policy.perception is None:
        raise ValueError("a policy without perception looks at no pictures: there is nothing to export")
    if policy.perception.language is not None:
        raise ValueError("a policy with a language model writes word by word, which no graph holds: export one without")
    if rig.valid.ndim != 1 or not rig.valid.all():
        raise ValueError(f"the rig is valid {rig.valid.tolist()}: all cameras of one moment must be there")
    calibration = [torch.from_numpy(np.ascontiguousarray(values)).float()[None] for values in (rig.intrinsics, rig.distortion)]
    place = torch.from_numpy(np.ascontiguousarray(rig.ego_from_camera)).float()[None]
    images = torch.zeros(1, len(rig.valid), height, width, 3, dtype=torch.uint8)
    sight = Sight(images, *calibration, place, torch.ones(1, len(rig.valid), dtype=torch.bool))
    policy = policy.cpu().eval().requires_grad_(False)
    with torch.no_grad():
        rows, columns = policy.perception.encoder(sight).fine.shape[3:]
        fixed = FixedBirdsEye(policy.perception.birds_eye.config, policy.perception.encoder.config).eval().requires_grad_(False)
        fixed.load_state_dict(policy.perception.birds_eye.state_dict())
        fixed.fix(sight, rows, columns)
    policy.perception.birds_eye = fixed
    module = Deployed(policy, sight).eval()
    for value in (*module.parameters(), *module.buffers()):
        value.data = value.data.contiguous()  # the file knows no other order of a convolution's channels
    return module


def example(rig: Rig, height: int, width: int, moments: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """INPUTS of nothing in particular: noise, driven straight ahead."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (moments, len(rig.valid), height, width, 3), dtype=torch.uint8, generator=generator)
    ego_history = torch.zeros(moments, 4, 7)
    speed = torch.rand(moments, 1, generator=generator) * 15
    ego_history[..., 0], ego_history[..., 3] = speed * torch.tensor([-1.5, -1.0, -0.5, 0.0]), speed
    return images, ego_history, torch.eye(4)[torch.arange(moments) % 4]


def export_policy(checkpoint: Path | str, rig: Rig, height: int, width: int, folder: Path | str | None = None) -> Path:
    """Writes a policy's graph (PROGRAM), and `export.json` that says what goes in and out, whose it is, and how far it is from the policy.

    Args:
        checkpoint: a policy's checkpoint folder.
        rig: one moment's cameras.
        height: of a picture.
        width: of a picture.
        folder: where both are to lie; None: `export` beside the checkpoint.

    Returns:
        The folder.

    Raises:
        ValueError: as `deployed`.
    """
    folder = Path(checkpoint).parent / "export" if folder is None else Path(folder)
    module = deployed(load_policy(checkpoint), rig, height, width)
    moments = torch.export.Dim("moments", min=1, max=1024)
    shapes = {name: {0: moments} for name in INPUTS}
    with torch.no_grad():
        program = torch.export.export(module, example(rig, height, width, 2), dynamic_shapes=shapes, strict=False)
        given = example(rig, height, width, 3, seed=1)
        pairs = zip(module(*given), program.module()(*given), strict=True)
        difference = {name: float((left - right).abs().max()) for name, (left, right) in zip(OUTPUTS, pairs, strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, folder / PROGRAM)
    values = {
        "inputs": INPUTS | {"images": INPUTS["images"].replace("views, height, width", f"{len(rig.valid)}, {height}, {width}")},
        "outputs": OUTPUTS,
        "rig": asdict(rig),
        "largest_difference": difference,
        "checkpoint": run.load(checkpoint).provenance,
        "provenance": run.provenance(),
    }
    run.write_json(folder / "export.json", values)
    return folder


def export_run(folder: Path, policy: str = "imitation", out: Path | None = None) -> Path:
    """`export_policy` of a policy of a run, with the cameras of the first scene of its val store.

    Raises:
        ValueError: the run has no such policy, or no val store; or as `deployed`.
    """
    store = Store(folder / "stores" / Path(data_of(folder)["val"]).stem)
    height, width = store.features([0]).images.shape[2:4]
    return export_policy(checkpoint_of(folder, policy), rig_of(store, 0), height, width, out)


def rig_of(store: Store, scene: int) -> Rig:
    """The cameras of one scene."""
    rig = store.rig([scene])
    return Rig(**{name: getattr(rig, name)[0] for name in ("intrinsics", "distortion", "ego_from_camera", "valid")})
