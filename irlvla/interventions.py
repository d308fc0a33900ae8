"""A moment's pictures with its cause masked, taken away or changed, beside the same done elsewhere, and what policies make of each.

Ego status and command stay as they are: what changes in an answer changes because of the pictures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from irlvla.causes import Case, Shot, shot, swapped, views, without
from irlvla.data.features import SensorConfig
from irlvla.data.store import Store
from irlvla.masks import elsewhere, filled, joined, region
from irlvla.model.cameras import NEAREST, projected
from irlvla.model.perception import Seen
from irlvla.model.policy import Policy
from irlvla.model.vision import sight_of
from irlvla.rationale import FIELDS
from irlvla.run import config_of
from irlvla.types import Features, Rig

SAMPLES = 5
"""Points along each edge of a box that are looked up in the pictures: what lies behind a camera is left out point by point."""

TRIES = 3
"""Places elsewhere that are tried for each one: over an even sky a mask changes nothing, and would be no match for one over a thing."""

Answer = Callable[[Features], dict[str, Float[np.ndarray, "moments"]]]
"""What is asked of a policy: by name one number for each moment, the larger the freer the road; NaN where there is no answer."""


ANSWER_NAMES = ("plan", "sight", "action", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """How much each intervention changes an answer, by name; a control of several draws has a column for each, NaN where there was none."""

    cases: tuple[Case, ...]
    before: Float[np.ndarray, "cases"]
    """The answer to the pictures as they are."""
    changes: dict[str, Float[np.ndarray, "cases _"]]


def plans(policy: Policy, features: Features) -> Float[np.ndarray, "moments 8 3"]:
    """The policy's deployed plans for a batch of moments, m."""
    return _looked(policy, features)[0]


def _looked(policy: Policy, features: Features) -> tuple[Float[np.ndarray, "moments 8 3"], Seen | None]:
    """Plans, and what was seen on the way; None by a policy without pictures."""
    device = policy.scale.device
    ego_history, command = (torch.from_numpy(values).float().to(device) for values in (features.ego_history, features.command))
    with torch.inference_mode():
        seen = None if policy.perception is None else policy.see(sight_of(features, device), ego_history, command)
        poses = policy.plan(policy.remember(None if seen is None else seen.scene, ego_history, command))
    return poses.cpu().numpy().astype(np.float64), seen


def length(poses: Float[np.ndarray, "moments 8 3"]) -> Float[np.ndarray, "moments"]:
    """How far plans go within their 4 s, m along themselves.

    Example:
        >>> length(np.tile([[[3.0, 4.0, 0.0]]], (1, 8, 1))).tolist()
        [5.0]
    """
    start = np.zeros((len(poses), 1, 2))
    return np.hypot(*np.moveaxis(np.diff(poses[..., :2], axis=1, prepend=start), -1, 0)).sum(axis=1)


def policy_answer(policy: Policy, cause: str) -> Answer:
    """What a policy does, sees, decides and says where a cause is to be seen.

    Args:
        policy: whose answers.
        cause: one of CAUSE_NAMES.

    Returns:
        The answers by name (ANSWER_NAMES): "plan" is the length of its plan, m; "sight" how probable the supervised heads of its
        bird's-eye view hold it that no red light, or no vehicle, is ahead; "action" the longitudinal meta action that it wrote, from stop
        (0) to accelerate (3); "text" 1 where it wrote nothing of a red light, or of a vehicle ahead, else 0. A policy without pictures
        has only the first, one without language the first two.
    """

    def answer(features: Features) -> dict[str, Float[np.ndarray, "moments"]]:
        poses, seen = _looked(policy, features)
        found = {"plan": length(poses)}
        if seen is None:
            return found
        ahead = seen.view.ahead[:, 1 if cause == "lead" else 0].float().softmax(dim=1)
        found["sight"] = ahead[:, -1].cpu().numpy().astype(np.float64)
        if seen.semantics is not None:
            facts = seen.semantics.facts.cpu().numpy().astype(np.float64)
            facts[(facts < 0).any(axis=1)] = np.nan
            spoken = facts[:, FIELDS.index("lead" if cause == "lead" else "light")]
            found |= {"action": facts[:, FIELDS.index("longitudinal")], "text": np.where(np.isnan(spoken), np.nan, spoken == 0)}
        return found

    return answer


def rig_of(store: Store, index: int) -> Rig:
    """The cameras of one scene, without a leading axis."""
    rig = store.rig([index])
    return Rig(**{name: getattr(rig, name)[0] for name in ("intrinsics", "distortion", "ego_from_camera", "valid")})


def thing_boxes(at: Shot, case: Case) -> Float[np.ndarray, "boxes 7"]:
    """What a case's cause consists of, the vehicle or all heads of its light: x, y, z of the underside (global), heading, length, width, height."""
    if case.cause == "lead":
        x, y, heading, *size = at.moment.boxes[case.thing]
        return np.array([[x, y, 0.0, heading, *size]])
    heads = at.town.heads[at.town.head_groups == case.thing]
    return np.column_stack([heads[:, :2] + at.town.ground.origin, heads[:, 2:]])


def box_regions(boxes: Float[np.ndarray, "boxes 7"], ego: Float[np.ndarray, "3"], rig: Rig, height: int, width: int) -> list[np.ndarray]:
    """Where boxes are seen: for each view of a rig the regions (`irlvla.masks`) around them, none of which overlap.

    Args:
        boxes: as `thing_boxes` gives them.
        ego: x, y, heading, global.
        rig: the cameras of one moment.
        height: of a view, pixels.
        width: of a view, pixels.
    """
    edge = np.linspace(-0.5, 0.5, SAMPLES)
    grid = np.stack(np.meshgrid(edge, edge, edge + 0.5, indexing="ij"), axis=-1).reshape(-1, 3)
    found: list[list[np.ndarray]] = [[] for _ in rig.valid]
    for x, y, z, heading, *size in boxes:
        points = grid * size
        cosine, sine = np.cos(heading), np.sin(heading)
        place = points[:, :2] @ np.array([[cosine, sine], [-sine, cosine]]) + (x, y) - ego[:2]
        cosine, sine = np.cos(ego[2]), np.sin(ego[2])
        in_ego = np.column_stack([place @ np.array([[cosine, -sine], [sine, cosine]]), points[:, 2] + z])
        calibration = (torch.from_numpy(values).double() for values in (rig.intrinsics, rig.distortion, rig.ego_from_camera))
        shares, depth, _ = projected(torch.from_numpy(in_ego), *calibration)
        for view in np.flatnonzero(rig.valid):
            found[view].append(region(shares[view].numpy(), depth[view].numpy() > NEAREST, height, width))
    return [joined(np.array(some, dtype=np.int64).reshape(-1, 4)) for some in found]


def versions(
    at: Shot, case: Case, rig: Rig, sensors: SensorConfig, draws: int, random: np.random.Generator
) -> dict[str, list[UInt8[np.ndarray, "views height width 3"]]]:
    """A moment's pictures as they are, and after each intervention and control.

    Args:
        at: the moment.
        case: its cause.
        rig: the cameras of the views.
        sensors: cameras and size of the views.
        draws: so many places elsewhere.
        random: chooses these.

    Returns:
        "original"; "masked"; "elsewhere", `draws` times or not at all (no room in some view); "removed" and "other_removed" of a vehicle
        ahead, "swapped" and "other_swapped" of a lamp, the others if there are any.
    """
    original = views(at, sensors)
    regions = box_regions(thing_boxes(at, case), at.ego, rig, sensors.height, sensors.width)
    found = {"original": [original], "masked": [masked(original, regions)]}
    found["elsewhere"] = [some for _ in range(draws) if (some := _masked_elsewhere(original, regions, random)) is not None]
    if len(found["elsewhere"]) < draws:
        found["elsewhere"] = []
    name, change = ("removed", without) if case.cause == "lead" else ("swapped", swapped)
    found[name] = [views(change(at, [case.thing]), sensors)]
    found[f"other_{name}"] = [views(change(at, case.others), sensors)] if case.others else []
    return found


def _masked_elsewhere(images: np.ndarray, regions: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray | None:
    """Views with as much masked elsewhere, None where there is no room in one; of some places tried those that change the most."""
    height, width = images.shape[1:3]
    result = []
    for image, some in zip(images, regions, strict=True):
        tried = [filled(image, places) for _ in range(TRIES) if (places := elsewhere(some, height, width, random)) is not None]
        if not tried:
            return None
        result.append(max(tried, key=lambda other: int(np.abs(other.astype(np.int16) - image).sum())))
    return np.stack(result)


def masked(images: UInt8[np.ndarray, "views height width 3"], regions: Sequence[np.ndarray]) -> UInt8[np.ndarray, "views height width 3"]:
    """Views with their regions filled with what surrounds them."""
    return np.stack([filled(image, some) for image, some in zip(images, regions, strict=True)])


def answers(
    policies: Mapping[str, Answer], store: Store, cases: Sequence[Case], draws: int = 4, seed: int = 0, batch: int = 8
) -> dict[str, dict[str, Answers]]:
    """What policies answer to every version of some cases of one cause.

    Args:
        policies: name -> what is asked.
        store: the scenes.
        cases: which of them, of one cause.
        draws: places elsewhere that are masked.
        seed: chooses these; each case has chance of its own.
        batch: cases whose pictures are answered to at once.

    Returns:
        By policy and name of the answer.

    Raises:
        ValueError: there are no cases, or of several causes.
    """
    if len({case.cause for case in cases}) != 1:
        raise ValueError(f"{len(cases)} cases of the causes {sorted({case.cause for case in cases})}: one cause is needed")
    sensors = config_of(SensorConfig, store.settings["sensors"])
    given: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        made = [
            versions(shot(store, case.index), case, rig_of(store, case.index), sensors, draws, np.random.default_rng([seed, case.index]))
            for case in part
        ]
        counts = [sum(len(some) for some in one.values()) for one in made]
        shown = shown_features(
            store, np.repeat([case.index for case in part], counts), [images for one in made for some in one.values() for images in some]
        )
        for policy, ask in policies.items():
            for name, values in ask(shown).items():
                of_cases = zip(made, np.split(values, np.cumsum(counts)[:-1]), strict=True)
                given.setdefault((policy, name), []).extend(_by_version(one, numbers, draws) for one, numbers in of_cases)
    found: dict[str, dict[str, Answers]] = {policy: {} for policy in policies}
    for (policy, name), rows in given.items():
        changes = {version: np.array([row[version] - row["original"] for row in rows]) for version in rows[0] if version != "original"}
        before = np.array([row["original"][0] for row in rows])
        found[policy][name] = Answers(cases=tuple(cases), before=before, changes=changes)
    return found


def shown_features(store: Store, indices: Sequence[int] | np.ndarray, images: Sequence[np.ndarray]) -> Features:
    """Scenes of a store with other pictures."""
    return Features(images=np.stack(images), rig=store.rig(indices), ego_history=store.histories(indices), command=store.commands(indices))


def _by_version(made: Mapping[str, Sequence[np.ndarray]], values: np.ndarray, draws: int) -> dict[str, np.ndarray]:
    """One case's answers by version; NaN for one that was not made."""
    parts = np.split(values, np.cumsum([len(some) for some in made.values()])[:-1])
    lacking = {name: draws if name == "elsewhere" else 1 for name in made}
    return {name: part if len(part) else np.full(lacking[name], np.nan) for name, part in zip(made, parts, strict=True)}
