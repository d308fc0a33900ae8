"""A store in memory for tests of learning: a straight road where a red picture means that the human stops, a green one that it goes on."""

import dataclasses

import numpy as np

from irlvla.data.store import Store
from irlvla.model.perception import PerceptionConfig
from irlvla.model.policy import PolicyConfig
from irlvla.model.vision import VisionConfig
from irlvla.train.controls import EgoMlpConfig
from irlvla.train.imitation_loss import ImitationConfig
from irlvla.types import Features

from . import tiny
from .score.scenes import prepared_by_hand, rectangle

HEIGHT, WIDTH = 32, 48
VISION = VisionConfig(widths=(8, 16, 16))
POLICY = PolicyConfig(perception=PerceptionConfig(vision=VISION), anchors=4, width=32, prior_width=32)
PRIOR = EgoMlpConfig(steps=20, batch=16, width=32)
IMITATION = ImitationConfig(
    policy=POLICY, prior=PRIOR, steps=4, planner_steps=4, batch=8, planner_batch=8, warmup=1, candidates=2, save_every=3
)


class MemoryStore(Store):
    """Scenes made from a seed; every third scene has no previous moment."""

    def __init__(self, scenes=24, seed=0, scenes_a_log=3):
        random = np.random.default_rng(seed)
        self.key = f"memory-{scenes}-{seed}"
        self.tokens = tuple(f"scene{index:03d}" for index in range(scenes))
        self.log_names = tuple(f"log{index // scenes_a_log:03d}" for index in range(scenes))
        self.has_previous = np.arange(scenes) % 3 != 2
        self.annotated = np.ones(scenes, bool)
        self.speed = random.uniform(4.0, 9.0, scenes)
        self.red = random.random(scenes) < 0.5
        self.calls = 0
        self.limit = None

    # It lies in no folder from which another process could open it.
    __reduce__ = object.__reduce__

    def __len__(self):
        return len(self.tokens)

    def features(self, indices, previous=False):
        self.calls += 1
        if self.limit is not None and self.calls > self.limit:
            raise KeyboardInterrupt
        indices = np.asarray(indices)
        images = np.zeros((len(indices), 4, HEIGHT, WIDTH, 3), np.uint8)
        images[self.red[indices], ..., 0] = 220
        images[~self.red[indices], ..., 1] = 200
        return Features(
            images=images,
            rig=self.rig(indices, previous),
            ego_history=self.histories(indices, previous),
            command=self.commands(indices, previous),
        )

    def rig(self, indices, previous=False):
        return tiny.rig(len(indices))

    def histories(self, indices, previous=False):
        indices = np.asarray(indices)
        history = np.zeros((len(indices), 4, 7))
        history[..., 0] = self.speed[indices][:, None] * np.array([-1.5, -1.0, -0.5, 0.0])
        history[..., 3] = self.speed[indices][:, None]
        return history

    def commands(self, indices, previous=False):
        return np.tile(np.eye(4)[1], (len(indices), 1))

    def human(self, indices, previous=False):
        indices = np.asarray(indices)
        poses = np.zeros((len(indices), 8, 3))
        time = 0.5 * np.arange(1, 9)
        braked = np.minimum(time, 3.0)
        goes = self.speed[indices][:, None] * time
        stops = self.speed[indices][:, None] * (braked - braked**2 / 6.0)
        poses[..., 0] = np.where(self.red[indices][:, None], stops, goes)
        return poses

    def targets(self, indices, previous=False):
        indices = np.asarray(indices)
        grid = np.zeros((len(indices), 4, 32, 32), np.uint8)
        grid[:, 0, :, 13:18] = grid[:, 1, :, 15:17] = 1
        grid[self.red[indices], 3, 14:, 15:17] = 1
        return grid

    def elements(self, indices, previous=False):
        return tiny.elements(len(indices))

    def facts(self, indices, previous=False):
        """A vehicle that leads in the middle distance, and where it is red a light that stops."""
        free, red = [2, 3, 0, 0, 0, 0, 2], [2, 3, 1, 0, 0, 0, 0]
        return np.where(self.red[np.asarray(indices)][:, None], red, free).astype(np.int8)

    def prepared(self, index):
        light = rectangle(4.05 + 0.6 * 3.0 * self.speed[index], -1.75, 100, 1.75)
        reds = [(light, np.ones(41, bool))] if self.red[index] else []
        scene = prepared_by_hand(
            speed=self.speed[index], reds=reds, has_previous=bool(self.has_previous[index]), reference=self.human([index])[0, -1, 0]
        )
        return dataclasses.replace(scene, human_poses=self.human([index])[0])
