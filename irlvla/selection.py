"""Which moments of a log become scenes: those that plain extrapolation does not solve and that the human drove well."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from irlvla.baselines import BASELINES
from irlvla.data.features import poses_in_ego
from irlvla.score.epdms import epdms, sub_scores
from irlvla.types import HISTORY, OBJECT_NAMES, POSES, SUB_SCORE_NAMES, PreparedScene, Scene, SubScores

FUTURE = 10
SPACING = 2
"""Frames between two scenes of a log, at least: 1 s."""
CONSTANT_VELOCITY_BELOW = 0.8
HUMAN_FROM = 0.8
ROWS = ("human", "pdm_closed", *BASELINES)
"""Plans that need no policy, in the order of `baseline_scores`."""
SITUATIONS = ("red_light", "turn", "slow_lead")
HARD = 1.9
"""Acceleration that counts as hard, m/s2."""
AHEAD = 40.0
TURN = 0.25
"""Heading change of the human over 4 s that counts as a turn or bend, rad."""


def likelihoods(
    poses: Float[np.ndarray, "frames 3"], speeds: Float[np.ndarray, "frames"], accelerations: Float[np.ndarray, "frames"]
) -> Float[np.ndarray, "frames"]:
    """How eagerly each frame of a log should be tried as a scene, judged by the human's motion alone (no score, no policy).

    Args:
        poses: x, y, heading of the ego at each 2 Hz frame.
        speeds: m/s.
        accelerations: m/s2.

    Returns:
        0 where no window with its previous frame fits, where the ego hardly moves, or where constant velocity would do: within 4 s
        less than 1.5 m off the straight line, at most 4 m behind and 8 m ahead of constant velocity. Else 1, 2.5 times that for braking,
        and six times that in hard accelerating, which is rare.
    """
    frames = len(poses)
    weights = np.zeros(frames)
    now = np.arange(HISTORY, frames - FUTURE)
    offset = poses[now + POSES, :2] - poses[now, :2]
    cosine, sine = np.cos(poses[now, 2]), np.sin(poses[now, 2])
    ahead, aside = cosine * offset[:, 0] + sine * offset[:, 1], cosine * offset[:, 1] - sine * offset[:, 0]
    behind = speeds[now] * 0.5 * POSES - ahead
    moving = (speeds[now] > 0.5) | (np.hypot(ahead, aside) > 3.0)
    hard = moving & ((np.abs(aside) > 1.5) | (behind > 4.0) | (behind < -8.0))
    weights[now] = hard * np.where(behind > 4.0, 2.5, 1.0) * np.where(accelerations[now] > HARD, 6.0, 1.0)
    return weights


def drawn(rng: np.random.Generator, weights: Float[np.ndarray, "frames"]) -> list[int]:
    """All frames of weight above 0 in a random order that prefers heavy ones.

    Source: Efraimidis and Spirakis, weighted sampling without replacement (2006).
    """
    frames = np.flatnonzero(weights > 0)
    return [int(frame) for frame in frames[np.argsort(rng.exponential(size=len(frames)) / weights[frames], kind="stable")]]


def spaced(candidates: Sequence[int], most: int, accepts: Callable[[int], bool], spacing: int = SPACING) -> list[int]:
    """Accepted candidates, asked one after the other until there are enough, at least `spacing` apart, in order.

    Example:
        >>> spaced([5, 6, 9, 2], 2, lambda frame: frame != 9)
        [2, 5]
    """
    chosen: list[int] = []
    for frame in candidates:
        if len(chosen) < most and all(abs(frame - other) >= spacing for other in chosen) and accepts(frame):
            chosen.append(frame)
    return sorted(chosen)


def states_until(scene: Scene, frame: int) -> Float[np.ndarray, "4 7"]:
    """The ego's last four states up to a frame of the scene: what the baselines extrapolate."""
    frames = slice(frame - HISTORY + 1, frame + 1)
    return np.concatenate([scene.ego_poses[frames], scene.ego_velocities[frames], scene.ego_accelerations[frames]], axis=1)


def logged_plan(scene: Scene, frame: int) -> Float[np.ndarray, "8 3"]:
    """The human's next 4 s after a frame, in that frame's ego frame."""
    return poses_in_ego(scene.ego_poses[frame], scene.ego_poses[frame + 1 : frame + 1 + POSES])


def baseline_plan(name: str, scene: Scene, frame: int, prepared: PreparedScene | None) -> Float[np.ndarray, "8 3"]:
    """The plan of one of `ROWS` at a frame of a scene, in that frame's ego frame.

    Args:
        name: One of `ROWS`.
        scene: The scene.
        frame: Index of the frame, with three before it and, for the human, eight after it.
        prepared: The scene prepared for that frame; only PDM-Closed looks at it.

    Raises:
        ValueError: PDM-Closed was asked for without a prepared scene.
    """
    if name == "human":
        return logged_plan(scene, frame)
    if name in BASELINES:
        return BASELINES[name](states_until(scene, frame))
    if prepared is None:
        raise ValueError(f"scene {scene.token}: the plan {name!r} needs the prepared scene")
    return poses_in_ego(prepared.ego_state[:3], prepared.reference_poses[5 : 5 * POSES + 1 : 5])


def baseline_scores(names: Sequence[str], scene: Scene, prepared: PreparedScene, previous: Scene | None, human_filter: bool) -> SubScores:
    """Sub-scores of plans that need no policy.

    Args:
        names: Some of `ROWS`.
        scene: The scene.
        prepared: The same, prepared.
        previous: The window one frame earlier, for EC; None if the log has none.
        human_filter: Whether what the human fails is forgiven.

    Returns:
        One entry a name. EC of PDM-Closed is left undefined: its earlier plan would cost a second preparation.
    """
    now = np.stack([baseline_plan(name, scene, HISTORY - 1, prepared) for name in names])
    before = None
    if previous is not None:
        before = np.stack(
            [now[row] if name == "pdm_closed" else baseline_plan(name, previous, HISTORY - 1, None) for row, name in enumerate(names)]
        )
    scores = sub_scores(prepared, now, prev_poses=before, human_filter=human_filter)
    defined = np.where(np.array(names) == "pdm_closed", 0.0, scores.ec_defined)
    rest = {name: getattr(scores, name) for name in SUB_SCORE_NAMES if name != "ec"}
    return SubScores(**rest, ec=scores.ec * defined, ec_defined=defined)


def worth_keeping(scene: Scene, prepared: PreparedScene, previous: Scene | None) -> bool:
    """Whether a scene is hard and fair: constant velocity's unfiltered EPDMS below 0.8, the human's at least that.

    Source: NAVSIM's navtrain and navtest drop what constant velocity solves or the human fails.
    """
    constant_velocity, human = epdms(baseline_scores(("constant_velocity", "human"), scene, prepared, previous, human_filter=False))
    return bool(constant_velocity < CONSTANT_VELOCITY_BELOW and human >= HUMAN_FROM)


def situations(prepared: PreparedScene) -> dict[str, bool]:
    """What makes a scene hard, by name of SITUATIONS: a red light on the route within 40 m ahead; a turn or bend; a slower or standing lead."""
    corners = prepared.centerline[:, :2]
    length = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))))
    along = np.arange(0.0, length[-1] + 1.0, 1.0)
    line = np.stack([np.interp(along, length, corners[:, axis]) for axis in range(2)], -1)
    start = along[int(np.argmin(np.hypot(*(line - prepared.ego_state[:2]).T)))]

    def distance_ahead(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gaps = np.hypot(*(points[:, None] - line[None]).transpose(2, 0, 1))
        nearest = gaps.argmin(1)
        return along[nearest] - start, gaps[np.arange(len(points)), nearest]

    red = False
    rings = prepared.red_polygons
    for number in np.flatnonzero(prepared.red_valid[0]):
        first, last = rings.ring_start[rings.polygon_start[number]], rings.ring_start[rings.polygon_start[number + 1]]
        ahead, aside = distance_ahead(rings.vertices[first:last])
        red |= bool(((ahead > 3.0) & (ahead < AHEAD) & (aside < 2.5)).any())
    turned = abs((prepared.human_poses[-1, 2] + np.pi) % (2 * np.pi) - np.pi)
    users = prepared.object_valid[0] & np.isin(prepared.object_types, [OBJECT_NAMES.index("vehicle"), OBJECT_NAMES.index("bicycle")])
    lead = False
    if users.any():
        ahead, aside = distance_ahead(prepared.object_boxes[0, users, :2])
        slower = prepared.object_first_speed[users] < max(prepared.ego_state[3] - 1.0, 0.5)
        lead = bool(((ahead > 3.0) & (ahead < AHEAD) & (aside < 1.3) & slower).any())
    return dict(zip(SITUATIONS, (red, bool(turned > TURN), lead), strict=True))


def table_rows(scores: Sequence[SubScores]) -> list[dict[str, object]]:
    """Mean EPDMS and sub-scores of `ROWS` over scenes, in 0..100; EC over the scenes that define it, NaN-free: 0 if none does."""
    rows: list[dict[str, object]] = []
    for number, name in enumerate(ROWS):
        means = {part: 100 * float(np.mean([getattr(score, part)[number] for score in scores])) for part in SUB_SCORE_NAMES}
        defined = sum(float(score.ec_defined[number]) for score in scores)
        means["ec"] = 100 * float(sum(score.ec[number] for score in scores)) / max(defined, 1.0)
        rows.append(
            {"policy": name, "scenes": len(scores), "epdms": 100 * float(np.mean([epdms(score)[number] for score in scores])), **means}
        )
    return rows


def printed_table(title: str, rows: Sequence[dict[str, object]]) -> str:
    """The rows as text."""
    head = f"{title:24s}" + "".join(f"{name.upper():>7s}" for name in ("epdms", *SUB_SCORE_NAMES))
    body = [f"{row['policy']!s:24s}" + "".join(f"{row[name]:7.1f}" for name in ("epdms", *SUB_SCORE_NAMES)) for row in rows]
    return "\n".join([head, *body])
