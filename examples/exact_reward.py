"""The exact score as the reward of a search: python examples/exact_reward.py

Each scene has a Gaussian over (speed, curvature); in each round proposals are drawn, driven, scored exactly, and the Gaussian moves
towards the best of them. Put a policy in the Gaussian's place and its update in place of the last lines, and this is a training loop.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import irlvla

SCENES, PROPOSALS, ELITE, ROUNDS = 8, 64, 8, 5

golden = Path(__file__).resolve().parents[1] / "tests" / "golden"
tokens = [line.split(",")[0] for line in (golden / "scenes.csv").read_text().splitlines()[1 : SCENES + 1]]
scenes = irlvla.load_scenes(golden / "openscene", golden / "maps", "test", tokens)
rng = np.random.default_rng(0)


def driven(speed, curvature):
    """Plans (N, 8, 3) at constant speed on arcs."""
    way = speed[:, None] * np.arange(1, 9) * 0.5
    heading = way * curvature[:, None]
    chord = way * np.sinc(heading / 2 / np.pi)
    return np.stack([chord * np.cos(heading / 2), chord * np.sin(heading / 2), heading], axis=2)


def rewards(scene, poses):
    """EPDMS without the human filter: a reward should not forgive what the human did wrong."""
    return irlvla.epdms(irlvla.score(scene, poses, human_filter=False))


mean = np.stack([[scene.ego_state[3], 0.0] for scene in scenes])
spread = np.tile([3.0, 0.03], (len(scenes), 1))
with ThreadPoolExecutor() as pool:  # scenes at once: the kernels run outside Python's lock
    for number in range(ROUNDS):
        drawn = mean[:, None] + spread[:, None] * rng.standard_normal((len(scenes), PROPOSALS, 2))
        proposals = [driven(np.maximum(speed, 0.0), curvature) for speed, curvature in np.moveaxis(drawn, 2, 1)]
        reward = np.stack(list(pool.map(rewards, scenes, proposals)))
        print(f"round {number}: mean reward {100 * reward.mean():.1f}, best of each scene {100 * reward.max(axis=1).mean():.1f}")
        chosen = np.take_along_axis(drawn, np.argsort(-reward, axis=1)[:, :ELITE, None], axis=1)
        mean, spread = chosen.mean(axis=1), chosen.std(axis=1) + [0.1, 0.001]
