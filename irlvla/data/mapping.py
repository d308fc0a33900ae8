"""Which scenes of two stages belong together: NAVSIM's `reactive_all_mapping` and the scene filter beside it.

Source: autonomousvision/navsim at 0a380a9, navsim/planning/script/config/common/train_test_split and run_pdm_score.py (242-320).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from irlvla.data.navsim import SceneFilter, filter_in, filter_values, texts
from irlvla.types import StagePair

MAPPING = "reactive_all_mapping"


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStageSplit:
    """A filter of logged scenes (always with tokens), tokens of synthetic ones, and how they belong together.

    `data_split` is the folder below navsim_logs that the file names, None if it names none.
    """

    chosen: SceneFilter
    synthetic_tokens: tuple[str, ...]
    pairs: tuple[StagePair, ...]
    data_split: str | None


def has_two_stages(path: str | Path) -> bool:
    """Whether a split is one of two stages, which `two_stage_split` reads; the same errors as `irlvla.data.navsim.scene_filter`."""
    path = Path(path)
    place = path.parent.parent / path.name
    beside = path.parent.name == "scene_filter" and place.is_file()
    return MAPPING in filter_values(path) or (beside and MAPPING in filter_values(place))


def two_stage_split(path: str | Path) -> TwoStageSplit:
    """Read a split of two stages from NAVSIM's yaml files.

    Args:
        path: A file with `reactive_all_mapping` (with the scene filter's keys in it, below `scene_filter`, or in the file that
            its `defaults` name: scene_filter/<name>.yaml beside it), or such a scene_filter/<name>.yaml, with ../<name>.yaml.

    Raises:
        ValueError: A file is missing or no yaml, there is no mapping, it has another form, or a token is twice in it.
    """
    path = Path(path)
    values = filter_values(path)
    place, about = path, values
    if MAPPING not in values:
        place = path.parent.parent / path.name
        if path.parent.name != "scene_filter" or not place.is_file():
            raise ValueError(f"scene filter {path}: no {MAPPING} in it, nor in a file of that name one folder up")
        about = filter_values(place)
        if MAPPING not in about:
            raise ValueError(f"scene filter {place}: no {MAPPING} in it")
    elif isinstance(values.get("scene_filter"), dict):
        values = values["scene_filter"]
    elif (name := _default(values)) is not None:
        path = path.parent / "scene_filter" / f"{name}.yaml"
        values = filter_values(path)
    pairs = _pairs(about[MAPPING], place)
    chosen = filter_in(values, path)
    if chosen.tokens is None:
        chosen = replace(chosen, tokens=tuple(token for pair in pairs for token in (pair.now, pair.previous)))
    wanted = [values.get(key) for key in ("synthetic_scene_tokens", "reactive_synthetic_initial_tokens")]
    lists = [texts(value, "a list of synthetic scenes", path) for value in wanted if value is not None]
    synthetic = tuple(token for pair in pairs for follow_up in pair.follow_ups for token in follow_up) if not lists else lists[0]
    for others in lists[1:]:
        synthetic = tuple(token for token in synthetic if token in set(others))
    split = about.get("data_split")
    return TwoStageSplit(chosen=chosen, synthetic_tokens=synthetic, pairs=pairs, data_split=split if isinstance(split, str) else None)


def _default(values: dict[Any, Any]) -> str | None:
    """The name of the scene filter among hydra's defaults."""
    defaults = values.get("defaults")
    names = (
        [one["scene_filter"] for one in defaults if isinstance(one, dict) and "scene_filter" in one] if isinstance(defaults, list) else []
    )
    return names[0] if names and isinstance(names[0], str) else None


def _pairs(value: Any, path: Path) -> tuple[StagePair, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"scene filter {path}: {MAPPING} is no list")
    pairs, seen = [], set[str]()
    for number, entry in enumerate(value):
        where = f"{MAPPING}, entry {number}"
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], list):
            raise ValueError(f"scene filter {path}: {where} is not two tokens and a list of pairs")
        now, previous = texts(entry[:2], where, path)
        follow_ups = tuple(texts(pair, where, path) for pair in entry[2])
        for pair in follow_ups:
            if len(pair) != 2:
                raise ValueError(f"scene filter {path}: {where} has {len(pair)} synthetic scenes where two belong together")
        for token in (now, previous, *(token for pair in follow_ups for token in pair)):
            if token in seen:
                raise ValueError(f"scene filter {path}: {where} has the token {token}, which was there before")
            seen.add(token)
        try:
            pairs.append(StagePair(now=now, previous=previous, follow_ups=follow_ups))
        except ValueError as error:
            raise ValueError(f"scene filter {path}: {where}: {error}") from error
    return tuple(pairs)
