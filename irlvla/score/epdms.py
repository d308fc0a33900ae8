"""The NAVSIM v2 score (EPDMS) of proposals of one scene: sub-scores, human filter, aggregation.

Source: autonomousvision/navsim at 0a380a9, navsim/evaluate/pdm_score.py and
navsim/planning/simulation/planner/pdm_planner/scoring; docs/epdms.md says what each number means.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from irlvla.definitions import Traffic, check_traffic
from irlvla.score.collision import collision_scores
from irlvla.score.comfort import extended_comfort, history_comfort
from irlvla.score.reactive import reactive_objects
from irlvla.score.road import ego_areas, road_scores
from irlvla.score.states import reference_poses, sampled_reference
from irlvla.types import PreparedScene, ReactiveTraffic, SubScores, Trajectories
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
    return _zeros(raw_scores(scene, _human_states(scene), with_history=False))


def reactive_human_zeros(scene: PreparedScene) -> Bool[np.ndarray, "8"]:
    """The same amid traffic that reacts to the human's car.

    Raises:
        ValueError: The scene has no such traffic.
    """
    states = _human_states(scene)
    return _zeros(raw_scores(scene_amid(scene, states[0]), states, with_history=False))


def _human_states(scene: PreparedScene) -> Float[np.ndarray, "1 41 11"]:
    return simulated(scene.ego_state, reference_poses(scene.ego_state, scene.time_us, scene.human_poses[None]))


def _zeros(raw: RawScores) -> Bool[np.ndarray, "8"]:
    values = (raw.nc, raw.dac, raw.ddc, raw.tlc, np.ones(1), raw.ttc, raw.lk, raw.hc)
    return np.array([value[0] == 0.0 for value in values])


def scene_amid(scene: PreparedScene, states: Float[np.ndarray, "41 11"]) -> PreparedScene:
    """The scene with the objects that an ego in these states meets amid reactive traffic in place of the logged ones.

    Raises:
        ValueError: The scene has no such traffic.
    """
    traffic = _reactive(scene)
    boxes, valid = reactive_objects(traffic, states)
    return replace(
        scene, object_types=traffic.object_types, object_first_speed=traffic.object_first_speed, object_boxes=boxes, object_valid=valid
    )


def _reactive(scene: PreparedScene) -> ReactiveTraffic:
    if isinstance(scene.reactive, str):
        raise ValueError(f"scene {scene.token} has no reactive traffic: {scene.reactive}")
    return scene.reactive


def sub_scores(
    scene: PreparedScene,
    poses: Float[np.ndarray, "proposals poses 3"],
    prev_poses: Float[np.ndarray, "prev_proposals prev_poses 3"] | None = None,
    human_filter: bool = True,
    traffic: Traffic = "log_replay",
) -> SubScores:
    """The nine sub-scores of proposals of one scene.

    Each proposal is judged by itself: EP compares it with PDM-Closed alone, as the devkit's one-by-one scoring does; reactive
    traffic is simulated for each proposal, and PDM-Closed's plan meets the traffic that reacts to the proposal.

    Args:
        scene: The prepared scene.
        poses: Rear-axle poses in the ego frame, 8 at 2 Hz or 40 at 10 Hz, t = 0 excluded.
        prev_poses: The plans made one frame (0.5 s) earlier, in that frame's ego frame, for EC.
        human_filter: Whether a sub-score in which the human plan has 0 becomes 1.
        traffic: How other road users move, a key of `irlvla.definitions.TRAFFIC`.

    Returns:
        Arrays of length proposals. EC is defined where `prev_poses` is given and the log has a frame before.

    Raises:
        ValueError: If `poses` or `prev_poses` have a wrong shape, are not finite or differ in number; if no traffic has that name,
            or the scene has no reactive traffic.
    """
    check_traffic(traffic)
    poses = Trajectories(poses=np.asarray(poses, dtype=np.float64)).poses
    if prev_poses is not None and len(prev_poses) != len(poses):
        raise ValueError(f"scene {scene.token}: {len(poses)} proposals but {len(prev_poses)} previous ones")
    if prev_poses is not None:
        prev_poses = Trajectories(poses=np.asarray(prev_poses, dtype=np.float64)).poses
    interval = scene.time_us * 1e-6 - scene.previous_time_us * 1e-6
    if scene.previous_time_us < 0 or not 0.0 < interval < MAXIMUM_INTERVAL:
        prev_poses = None
    human_zero = _reactive(scene).human_zero if traffic == "idm" else scene.human_zero
    firsts = range(0, max(len(poses), 1), PROPOSALS_AT_ONCE)
    parts = [slice(first, first + PROPOSALS_AT_ONCE) for first in firsts]
    found = [_scored(scene, poses[part], None if prev_poses is None else prev_poses[part], interval, traffic) for part in parts]
    raw, ec, norm = found[0] if len(found) == 1 else _joined(found)
    best = np.maximum(raw.progress * multiplier(raw), norm)
    counts = best > PROGRESS_THRESHOLD
    ep = np.where(counts, np.clip(raw.progress / np.where(counts, best, 1.0), 0.0, 1.0), 1.0)
    values = {"nc": raw.nc, "dac": raw.dac, "ddc": raw.ddc, "tlc": raw.tlc, "ep": ep, "ttc": raw.ttc, "lk": raw.lk, "hc": raw.hc}
    if human_filter:
        values = {name: np.ones_like(value) if zero else value for (name, value), zero in zip(values.items(), human_zero, strict=True)}
    return SubScores(**values, ec=ec, ec_defined=np.full(len(poses), 0.0 if prev_poses is None else 1.0))


def _scored(
    scene: PreparedScene, poses: np.ndarray, prev_poses: np.ndarray | None, interval: float, traffic: Traffic
) -> tuple[RawScores, Float[np.ndarray, "proposals"], Float[np.ndarray, "proposals"]]:
    """Raw scores, EC (0 without previous plans) and the reference's progress times its multiplier, of some proposals."""
    states = simulated(scene.ego_state, reference_poses(scene.ego_state, scene.time_us, poses))
    if traffic == "idm":
        raw, norm = _reactive_scores(scene, states)
    else:
        raw, norm = raw_scores(scene, states, with_history=True), np.full(len(poses), scene.reference_progress * scene.reference_multiplier)
    if prev_poses is None:
        return raw, np.zeros(len(poses)), norm
    previous = reference_poses(scene.previous_state, scene.previous_time_us, prev_poses)
    return raw, extended_comfort(states, simulated(scene.previous_state, previous), interval), norm


def _reactive_scores(
    scene: PreparedScene, states: Float[np.ndarray, "proposals 41 11"]
) -> tuple[RawScores, Float[np.ndarray, "proposals"]]:
    """Raw scores of proposals, each amid the traffic that reacts to it, and the reference's progress times its multiplier amid the same."""
    count = len(states)
    reference = simulated(scene.ego_state, sampled_reference(scene.time_us, scene.reference_poses)[None])
    both = np.concatenate([states, reference])
    points, areas = ego_areas(scene, both)
    dac, ddc, tlc, lk, progress = road_scores(scene, points, areas)
    nc, ttc = np.empty((2, count)), np.empty(count)
    for place in range(count):
        pair = [place, count]
        nc[:, place], (ttc[place], _) = collision_scores(scene_amid(scene, states[place]), both[pair], points[pair], areas[pair])
    norm = progress[count] * nc[1] * dac[count] * ddc[count] * tlc[count]
    own = {"dac": dac, "ddc": ddc, "tlc": tlc, "lk": lk, "progress": progress}
    own = {name: values[:count] for name, values in own.items()}
    return RawScores(**own, nc=nc[0], ttc=ttc, hc=history_comfort(scene, states)), norm


def _joined(found: list[tuple[RawScores, np.ndarray, np.ndarray]]) -> tuple[RawScores, np.ndarray, np.ndarray]:
    names = [field.name for field in fields(RawScores)]
    raw = {name: np.concatenate([getattr(raw, name) for raw, _, _ in found]) for name in names}
    return RawScores(**raw), np.concatenate([ec for _, ec, _ in found]), np.concatenate([norm for _, _, norm in found])


def epdms(scores: SubScores) -> Any:
    """EPDMS of each trajectory in [0, 1], from NumPy arrays or torch tensors alike; EC counts only where it is defined.

    Source: navsim/planning/script/run_pdm_score_one_stage.py, compute_final_scores.
    """
    weighted = 5 * scores.ep + 5 * scores.ttc + 2 * scores.lk + 2 * scores.hc + 2 * scores.ec * scores.ec_defined
    return multiplier(scores) * weighted / (14 + 2 * scores.ec_defined)
