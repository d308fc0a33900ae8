"""The NAVSIM v2 score (EPDMS) of proposals of one scene: sub-scores, human filter, aggregation.

Source: autonomousvision/navsim at 0a380a9, navsim/evaluate/pdm_score.py and
navsim/planning/simulation/planner/pdm_planner/scoring; docs/epdms.md says what each number means.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from irlvla.score.collision import collision_scores
from irlvla.score.comfort import extended_comfort, history_comfort
from irlvla.score.road import ego_areas, road_scores
from irlvla.score.states import reference_poses, sampled_reference
from irlvla.types import PreparedScene, SubScores, Trajectories
from irlvla.vehicle import simulated

PROGRESS_THRESHOLD = 5.0
"""Below this best progress (m) every proposal has made full progress: EP = 1."""
MAXIMUM_INTERVAL = 0.55
"""EC compares two plans only if they are less than this apart, s."""
PROPOSALS_AT_ONCE = 256
"""So many proposals pass through all kernels before the next ones do: what lies between the kernels stays in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawScores:
    """What can be said of each proposal alone, before EP's normalisation, EC and the human filter."""

    nc: Float[np.ndarray, "proposals"]
    dac: Float[np.ndarray, "proposals"]
    ddc: Float[np.ndarray, "proposals"]
    tlc: Float[np.ndarray, "proposals"]
    ttc: Float[np.ndarray, "proposals"]
    lk: Float[np.ndarray, "proposals"]
    hc: Float[np.ndarray, "proposals"]
    progress: Float[np.ndarray, "proposals"]


def raw_scores(scene: PreparedScene, states: Float[np.ndarray, "proposals 41 11"], with_history: bool) -> RawScores:
    """Sub-scores of simulated states against a scene's objects, lights, map and centerline.

    The scene's reference, human plan and human filter are not looked at, so that a scene under construction (or one whose
    objects were replaced by a forecast with `dataclasses.replace`) can be passed.

    Args:
        scene: Objects at 10 Hz, red lights, drivable map, centerline and, for HC, the past.
        states: Simulated states from `irlvla.vehicle.simulated`, global.
        with_history: Whether HC is judged on the past and the states; else it is 1.

    Returns:
        NC, DAC, DDC, TLC, TTC, LK, HC in [0, 1] and the progress along the centerline in m (>= 0).
    """
    points, areas = ego_areas(scene, states)
    nc, ttc = collision_scores(scene, states, points, areas)
    dac, ddc, tlc, lk, progress = road_scores(scene, points, areas)
    hc = history_comfort(scene, states) if with_history else np.ones(len(states))
    return RawScores(nc=nc, dac=dac, ddc=ddc, tlc=tlc, ttc=ttc, lk=lk, hc=hc, progress=progress)


def multiplier(raw: RawScores | SubScores) -> Any:
    """NC * DAC * DDC * TLC of each proposal, in [0, 1]."""
    return raw.nc * raw.dac * raw.ddc * raw.tlc


def batch_scores(raw: RawScores) -> Float[np.ndarray, "proposals"]:
    """The score by which PDM-Closed picks one of its proposals: EP over the whole batch, no EC, no human filter.

    Source: PDMScorer._aggregate_scores.
    """
    best = (raw.progress * multiplier(raw)).max()
    ep = np.clip(raw.progress / best, 0.0, 1.0) if best > PROGRESS_THRESHOLD else np.ones_like(raw.progress)
    return multiplier(raw) * (5 * ep + 5 * raw.ttc + 2 * raw.lk + 2 * raw.hc) / 14


def reference_progress(scene: PreparedScene) -> tuple[float, float]:
    """Progress (m) and multiplier of the simulated `scene.reference_poses`, by which EP is normalised."""
    references = sampled_reference(scene.time_us, scene.reference_poses)
    raw = raw_scores(scene, simulated(scene.ego_state, references[None]), with_history=False)
    return float(raw.progress[0]), float(multiplier(raw)[0])


def human_zeros(scene: PreparedScene) -> Bool[np.ndarray, "8"]:
    """Which of nc dac ddc tlc ep ttc lk hc are 0 for the human plan `scene.human_poses`, scored alone and without a past."""
    references = reference_poses(scene.ego_state, scene.time_us, scene.human_poses[None])
    raw = raw_scores(scene, simulated(scene.ego_state, references), with_history=False)
    values = (raw.nc, raw.dac, raw.ddc, raw.tlc, np.ones(1), raw.ttc, raw.lk, raw.hc)
    return np.array([value[0] == 0.0 for value in values])


def sub_scores(
    scene: PreparedScene,
    poses: Float[np.ndarray, "proposals poses 3"],
    prev_poses: Float[np.ndarray, "prev_proposals prev_poses 3"] | None = None,
    human_filter: bool = True,
) -> SubScores:
    """The nine sub-scores of proposals of one scene with log-replay traffic.

    Each proposal is judged by itself: EP compares it with PDM-Closed alone, as the devkit's one-by-one scoring does.

    Args:
        scene: The prepared scene.
        poses: Rear-axle poses in the ego frame, 8 at 2 Hz or 40 at 10 Hz, t = 0 excluded.
        prev_poses: The plans made one frame (0.5 s) earlier, in that frame's ego frame, for EC.
        human_filter: Whether a sub-score in which the human plan has 0 becomes 1.

    Returns:
        Arrays of length proposals. EC is defined where `prev_poses` is given and the log has a frame before.

    Raises:
        ValueError: If `poses` or `prev_poses` have a wrong shape, are not finite or differ in number.
    """
    poses = Trajectories(poses=np.asarray(poses, dtype=np.float64)).poses
    if prev_poses is not None and len(prev_poses) != len(poses):
        raise ValueError(f"scene {scene.token}: {len(poses)} proposals but {len(prev_poses)} previous ones")
    if prev_poses is not None:
        prev_poses = Trajectories(poses=np.asarray(prev_poses, dtype=np.float64)).poses
    interval = scene.time_us * 1e-6 - scene.previous_time_us * 1e-6
    if scene.previous_time_us < 0 or not 0.0 < interval < MAXIMUM_INTERVAL:
        prev_poses = None
    firsts = range(0, max(len(poses), 1), PROPOSALS_AT_ONCE)
    parts = [slice(first, first + PROPOSALS_AT_ONCE) for first in firsts]
    pairs = [_scored(scene, poses[part], None if prev_poses is None else prev_poses[part], interval) for part in parts]
    raw, ec = pairs[0] if len(pairs) == 1 else _joined(pairs)
    best = np.maximum(raw.progress * multiplier(raw), scene.reference_progress * scene.reference_multiplier)
    counts = best > PROGRESS_THRESHOLD
    ep = np.where(counts, np.clip(raw.progress / np.where(counts, best, 1.0), 0.0, 1.0), 1.0)
    values = {"nc": raw.nc, "dac": raw.dac, "ddc": raw.ddc, "tlc": raw.tlc, "ep": ep, "ttc": raw.ttc, "lk": raw.lk, "hc": raw.hc}
    if human_filter:
        values = {
            name: np.ones_like(value) if zero else value for (name, value), zero in zip(values.items(), scene.human_zero, strict=True)
        }
    return SubScores(**values, ec=ec, ec_defined=np.full(len(poses), 0.0 if prev_poses is None else 1.0))


def _scored(
    scene: PreparedScene, poses: np.ndarray, prev_poses: np.ndarray | None, interval: float
) -> tuple[RawScores, Float[np.ndarray, "proposals"]]:
    """Raw scores and EC (0 without previous plans) of some proposals."""
    states = simulated(scene.ego_state, reference_poses(scene.ego_state, scene.time_us, poses))
    raw = raw_scores(scene, states, with_history=True)
    if prev_poses is None:
        return raw, np.zeros(len(poses))
    previous = reference_poses(scene.previous_state, scene.previous_time_us, prev_poses)
    return raw, extended_comfort(states, simulated(scene.previous_state, previous), interval)


def _joined(pairs: list[tuple[RawScores, np.ndarray]]) -> tuple[RawScores, np.ndarray]:
    names = [field.name for field in fields(RawScores)]
    raw = {name: np.concatenate([getattr(raw, name) for raw, _ in pairs]) for name in names}
    return RawScores(**raw), np.concatenate([ec for _, ec in pairs])


def epdms(scores: SubScores) -> Any:
    """EPDMS of each trajectory in [0, 1], from NumPy arrays or torch tensors alike; EC counts only where it is defined.

    Source: navsim/planning/script/run_pdm_score_one_stage.py, compute_final_scores.
    """
    weighted = 5 * scores.ep + 5 * scores.ttc + 2 * scores.lk + 2 * scores.hc + 2 * scores.ec * scores.ec_defined
    return multiplier(scores) * weighted / (14 + 2 * scores.ec_defined)
