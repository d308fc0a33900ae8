from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from irlvla.data.features import SensorConfig, features
from irlvla.model.policy import Policy
from irlvla.navsim_agent import agent_features, plan

from .data.test_features import scene, write_pictures
from .stand_in import HEIGHT, POLICY, WIDTH


def agent_input(some, folder):
    """The scene as the devkit hands it to an agent: local poses, full-size RGB pictures (the reader may decode smaller ones)."""
    expected = features(some, SensorConfig())
    names = ("cam_f0", "cam_l0", "cam_r0")
    mounted = {
        "intrinsics": np.eye(3),
        "distortion": np.zeros(5),
        "sensor2lidar_rotation": np.eye(3),
        "sensor2lidar_translation": np.zeros(3),
    }
    pictures = {name: np.asarray(Image.open(folder / f"{name.upper()}.jpg")) for name in names}
    frame = SimpleNamespace(**{name: SimpleNamespace(image=picture, **mounted) for name, picture in pictures.items()})
    statuses = [
        SimpleNamespace(
            ego_pose=row[:3], ego_velocity=row[3:5], ego_acceleration=row[5:], driving_command=some.commands[3], in_global_frame=False
        )
        for row in expected.ego_history
    ]
    return SimpleNamespace(ego_statuses=statuses, cameras=[frame] * 4), expected


def test_the_agent_sees_what_the_reader_sees(tmp_path):
    write_pictures(tmp_path)
    given, expected = agent_input(scene(tmp_path, heading=1.0), tmp_path)
    seen = agent_features(given)
    assert np.abs(seen.images.astype(int) - expected.images).max() <= 1
    for name in ("intrinsics", "distortion", "ego_from_camera", "valid"):
        np.testing.assert_array_equal(getattr(seen.rig, name), getattr(expected.rig, name))
    np.testing.assert_allclose(seen.ego_history, expected.ego_history)
    np.testing.assert_array_equal(seen.command, expected.command)


def test_the_agent_plans_one_scene(tmp_path):
    write_pictures(tmp_path)
    given, _ = agent_input(scene(tmp_path), tmp_path)
    torch.manual_seed(0)
    policy = Policy(POLICY).eval()
    seen = agent_features(given, SensorConfig(height=HEIGHT, width=WIDTH))
    assert plan(policy, seen).shape == (8, 3)


def test_a_camera_that_was_not_loaded_is_named(tmp_path):
    write_pictures(tmp_path)
    given, _ = agent_input(scene(tmp_path), tmp_path)
    given.cameras[-1].cam_l0.image = None
    with pytest.raises(ValueError, match="CAM_L0 was not loaded"):
        agent_features(given)
    seen = agent_features(given, SensorConfig(missing_cameras=True))
    assert seen.rig.valid.tolist() == [True, True, False, True] and not seen.images[2].any()


def test_global_poses_are_refused(tmp_path):
    write_pictures(tmp_path)
    given, _ = agent_input(scene(tmp_path), tmp_path)
    given.ego_statuses[0].in_global_frame = True
    with pytest.raises(ValueError, match="in the global frame"):
        agent_features(given)
