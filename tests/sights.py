"""Pictures and calibrations by hand for tests of the vision part."""

import numpy as np
import torch

from irlvla.model.vision import Sight

FRONT = (0.8, 1.42, 0.5, 0.5)
LENS = (-0.356, 0.173, 0.001, -0.0007, -0.052)
"""Like those of NAVSIM's cameras."""


def mounted(yaw, place=(1.65, 0.0, 1.6)):
    """Camera points -> ego frame, for a level camera that looks `yaw` rad to the left."""
    sine, cosine = np.sin(yaw), np.cos(yaw)
    return torch.tensor([[sine, 0.0, cosine, place[0]], [-cosine, 0.0, sine, place[1]], [0.0, -1.0, 0.0, place[2]]]).float()


def sight(images, yaws=(0.0, 0.0, 0.96, -0.96), intrinsics=(FRONT, (1.6, 2.84, 0.5, 0.5), FRONT, FRONT), lens=None):
    """Pictures (scenes, views, height, width, 3) as level cameras saw them, the same of every scene."""
    scenes, views = images.shape[:2]
    return Sight(
        images=images,
        intrinsics=torch.tensor(intrinsics[:views]).float().expand(scenes, -1, -1).clone(),
        distortion=torch.tensor(lens or (0.0,) * 5).float().expand(scenes, views, -1).clone(),
        ego_from_camera=torch.stack([mounted(yaw) for yaw in yaws[:views]]).expand(scenes, -1, -1, -1).clone(),
        valid=torch.ones(scenes, views, dtype=torch.bool),
    )


def noise(scenes=2, views=4, height=32, width=48, seed=0):
    """Pictures of noise, the same for a seed."""
    return torch.randint(0, 255, (scenes, views, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
