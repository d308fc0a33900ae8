"""Our checkpoint as one of the NAVSIM devkit's agents. Only this file knows the devkit, and imports it when the agent is made.

In the devkit's configuration:

    _target_: irlvla.navsim_agent.agent
    checkpoint: /path/to/run/ppo/checkpoint
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from irlvla.data.features import SensorConfig, resized_views
from irlvla.data.rig import camera_rig, joined_rigs, missing_rig, views_of
from irlvla.model.policy import Policy
from irlvla.model.vision import sight_of
from irlvla.rollout import load_policy
from irlvla.types import HISTORY, Camera, Features


def agent_features(agent_input: Any, sensors: SensorConfig = SensorConfig()) -> Features:
    """What our policy sees of the devkit's AgentInput.

    Args:
        agent_input: `ego_statuses` and `cameras` of four frames, the current one last. Poses are local to the current frame. It does
            not say how the lidar frame, to which cameras are calibrated, lies in the ego frame: as the devkit does where it draws
            boxes into pictures, the two are taken for one.
        sensors: cameras and picture size with which the policy was trained.

    Raises:
        ValueError: a camera that the policy needs was not loaded (unless `sensors` allows that) or is none, or ego statuses are in the
            global frame.

    Source:
        navsim/common/dataclasses.py, AgentInput and Cameras at 0a380a9.
    """
    statuses = agent_input.ego_statuses[-HISTORY:]
    if any(status.in_global_frame for status in statuses):
        raise ValueError("ego statuses are in the global frame; AgentInput gives them in the current ego frame")
    history = np.stack([np.concatenate([status.ego_pose, status.ego_velocity, status.ego_acceleration]) for status in statuses])
    views: list[np.ndarray] = []
    rigs = []
    for name in sensors.cameras:
        values = getattr(agent_input.cameras[-1], name.lower())
        if values.image is None and sensors.missing_cameras:
            views += [np.zeros((sensors.height, sensors.width, 3), np.uint8)] * views_of(name)
            rigs.append(missing_rig(name))
            continue
        if values.image is None:
            raise ValueError(f"{name} was not loaded: the agent's sensor config asks for it")
        picture = Image.fromarray(np.asarray(values.image))
        views += resized_views(picture, name, (sensors.width, sensors.height))
        camera = Camera(
            name=name,
            path="",
            intrinsics=np.asarray(values.intrinsics, dtype=np.float64),
            distortion=np.asarray(values.distortion, dtype=np.float64),
            rotation=np.asarray(values.sensor2lidar_rotation, dtype=np.float64),
            translation=np.asarray(values.sensor2lidar_translation, dtype=np.float64),
            ego_from_lidar=np.eye(4),
        )
        rigs.append(camera_rig(camera, *picture.size, sensors.ground))
    return Features(
        images=np.stack(views) if views else np.zeros((0, sensors.height, sensors.width, 3), np.uint8),
        rig=joined_rigs(rigs),
        ego_history=history.astype(np.float64),
        command=np.asarray(statuses[-1].driving_command, dtype=np.float64),
    )


def plan(policy: Policy, features: Features) -> Float[np.ndarray, "8 3"]:
    """The policy's plan for one moment: poses in the ego frame at 0.5 .. 4.0 s."""
    with torch.inference_mode():
        history, command = (torch.from_numpy(values[None]).float() for values in (features.ego_history, features.command))
        seen = None if policy.perception is None else policy.see(sight_of(features, policy.scale.device), history, command).scene
        memory = policy.remember(seen, history, command)
        return policy.plan(memory)[0].numpy().astype(np.float64)


def agent(checkpoint: str, cameras: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0"), ground: float = 0.0) -> Any:
    """An instance of the devkit's AbstractAgent that plans with a checkpoint.

    Args:
        checkpoint: a policy's checkpoint folder.
        cameras: the cameras it was trained with.
        ground: height of the road in the ego frame that it was trained with, m, see `irlvla.data.rig`.
    """
    from navsim.agents.abstract_agent import AbstractAgent
    from navsim.common.dataclasses import AgentInput, Trajectory
    from navsim.common.dataclasses import SensorConfig as DevkitSensors
    from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling

    sensors = SensorConfig(cameras=tuple(cameras), ground=ground)
    sampling = TrajectorySampling(time_horizon=4, interval_length=0.5)

    class Agent(AbstractAgent):
        """The checkpoint behind the devkit's interface."""

        def __init__(self) -> None:
            super().__init__(trajectory_sampling=sampling)
            self._policy: Policy | None = None

        def name(self) -> str:
            """Name in result files."""
            return "irlvla"

        def initialize(self) -> None:
            """Loads the weights."""
            self._policy = load_policy(Path(checkpoint))

        def get_sensor_config(self) -> DevkitSensors:
            """Only the current frame's pictures are loaded."""
            wanted = {f"cam_{side}": [HISTORY - 1] if f"CAM_{side.upper()}" in sensors.cameras else False for side in SIDES}
            return DevkitSensors(**wanted, lidar_pc=False)

        def compute_trajectory(self, agent_input: AgentInput) -> Trajectory:
            """The plan for one scene."""
            if self._policy is None:
                self.initialize()
            return Trajectory(plan(self._policy, agent_features(agent_input, sensors)).astype(np.float32), sampling)

    return Agent()


SIDES = ("f0", "l0", "l1", "l2", "r0", "r1", "r2", "b0")
