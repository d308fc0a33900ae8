"""Cameras and pictures made by hand, for tests of drawing."""

import numpy as np
from PIL import Image

from irlvla.types import Camera

HEIGHT = 1.5
FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Camera points (x right, y down, z forward) of a camera that looks ahead -> ego frame."""


def camera(path="", name="CAM_F0", focal=100.0, size=(200, 100), distortion=(0.0, 0.0, 0.0, 0.0, 0.0)):
    """A camera HEIGHT above the rear axle that looks straight ahead; half of its height is carried by the lidar's place."""
    lidar = np.eye(4)
    lidar[2, 3] = HEIGHT / 2
    return Camera(
        name=name,
        path=str(path),
        intrinsics=np.array([[focal, 0.0, size[0] / 2], [0.0, focal, size[1] / 2], [0.0, 0.0, 1.0]]),
        distortion=np.array(distortion),
        rotation=FORWARD,
        translation=np.array([0.0, 0.0, HEIGHT / 2]),
        ego_from_lidar=lidar,
    )


def grey_camera(folder, name="CAM_F0", **how):
    """Such a camera with a grey picture on disk."""
    made = camera(folder / f"{name}.png", name, **how)
    Image.new("RGB", how.get("size", (200, 100)), (90, 90, 90)).save(made.path)
    return made
