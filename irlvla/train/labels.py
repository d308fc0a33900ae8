"""Exact scores of candidate trajectories, streamed into a sharded Arrow set: what the reward world model learns from.

A set is a folder of Arrow files (`shard-00000.arrow`, ...), one row a candidate, `SCENES_A_SHARD` scenes a file. Each file knows
the key of all that its numbers depend on, and where the sources of chance stood after it, so that an interrupted set goes
on with the same numbers, and a file of another key is made again. Only one shard is held at a time; reading maps the files.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int

from irlvla import origin
from irlvla.data.store import Store
from irlvla.files import replaced
from irlvla.model.diffusion import ExplorationConfig
from irlvla.model.policy import Policy
from irlvla.model.reward_world_model import HEADS
from irlvla.prepare import SOURCES
from irlvla.rollout import THREADS
from irlvla.scene_cache import SceneCache, scene_cache
from irlvla.score.epdms import sub_scores
from irlvla.shifted import shifted_store, sound, sources
from irlvla.train.candidates import KIND_NAMES, CandidatesConfig, Chance, Columns, candidates, chance, columns, palette
from irlvla.train.vocabularies import vocabularies
from irlvla.workers import work_off

FORMAT = 1
SCENES_A_SHARD = 64
"""Scenes whose candidates are drawn, scored and written as one."""
CODE = (
    *SOURCES, "rollout.py", "scene_cache.py", "feature_cache.py", "model/attention.py", "model/backbones.py", "model/bev.py",
    "model/cameras.py", "model/diffusion.py", "model/lift.py", "model/perception.py", "model/policy.py", "model/vision.py",
    "train/candidates.py", "train/labels.py", "train/vocabularies.py",
)  # fmt: skip
"""Code whose change makes labels stale."""
SCHEMA = pa.schema(
    [
        ("token", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),
        ("candidate", pa.int32()),
        ("kind", pa.dictionary(pa.int8(), pa.string())),
        ("vocabulary", pa.int32()),
        ("poses", pa.list_(pa.float32(), 24)),
        ("labels", pa.list_(pa.float32(), len(HEADS))),
        ("raw_labels", pa.list_(pa.float32(), len(HEADS))),
    ]
)
"""Scene token and its row in the store, the candidate's place in the scene, kind and vocabulary (number of words, 0: of none), 8 poses
(x, y, heading; m, rad), sub-scores in the order of HEADS: human-filtered as reported, and unfiltered."""


class Parts:
    """One array of (scenes, ...) whose parts lie in several files; indexing its scenes copies what is asked for into memory."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        """Takes the parts in order; all but their first axis are alike."""
        self._parts = parts
        self._starts = np.cumsum([0] + [len(part) for part in parts])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, scenes: Any) -> np.ndarray:
        scenes = np.arange(len(self))[scenes]
        place = np.searchsorted(self._starts, scenes, side="right") - 1
        values = np.empty((*scenes.shape, *self.shape[1:]), self.dtype)
        for number in np.unique(place):
            inside = place == number
            values[inside] = self._parts[number][scenes[inside] - self._starts[number]]
        return values


@dataclass(frozen=True, slots=True)
class Labelled:
    """An open set of labelled candidates: `poses` and `labels` are mapped from disk, scenes by candidates."""

    rows: Int[np.ndarray, "scenes"]
    """Of the store."""
    poses: Parts
    """(scenes, candidates, 8, 3), m and rad."""
    labels: Parts
    """(scenes, candidates, 8), sub-scores in the order of HEADS, human-filtered as reported."""
    raw_labels: Parts
    """The same without the human filter."""
    kinds: Int[np.ndarray, "candidates"]
    """Indices into KIND_NAMES."""
    vocabulary: Int[np.ndarray, "candidates"]
    """Number of words of the vocabulary that each candidate is from, 0 of none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    """What is scored and written as one."""

    path: Path
    rows: Int[np.ndarray, "scenes"]
    poses: Float[np.ndarray, "scenes candidates 8 3"]
    notes: dict[str, Any]


def _label(shard: _Shard, store: Store, about: Columns) -> None:
    tokens = [store.tokens[row] for row in shard.rows]
    write_shard(shard.path, tokens, shard.rows, shard.poses, *scored(store, shard.rows, shard.poses), about, shard.notes)


def labelled(
    policy: Policy,
    cache: SceneCache,
    store: Store,
    rows: Int[np.ndarray, "scenes"],
    noise: ExplorationConfig,
    config: CandidatesConfig,
    seed: int,
    folder: Path,
    words_folder: Path,
    cluster: str | None = None,
) -> Labelled:
    """Candidates of some scenes with their exact sub-scores: what is finished in `folder` is kept, the rest is made.

    Args:
        policy: whose plans are candidates.
        cache: all scenes of the store as the policy's vision part sees them.
        store: prepared scenes.
        rows: which of them.
        noise: exploration of the policy.
        config: kinds of candidates.
        seed: of all chance.
        folder: of the set; shards of another key in it are made again.
        words_folder: where further vocabularies are kept for all runs on the store.
        cluster: address of a Ray cluster whose workers score, or "local", see `irlvla.cluster`; they see store and folder, too.

    Raises:
        ValueError: there are no scenes, or one of them cannot be scored; or a shard was lost on the cluster.
    """
    if not len(rows):
        raise ValueError("no scenes to label: half A of the training logs is empty")
    folder.mkdir(parents=True, exist_ok=True)
    key = labels_key(policy, store, rows, noise, config, seed)
    parts = [rows[start : start + SCENES_A_SHARD] for start in range(0, len(rows), SCENES_A_SHARD)]
    paths = [folder / f"shard-{number:05d}.arrow" for number in range(len(parts))]
    for path in set(folder.glob("*.arrow")) - set(paths):
        path.unlink()
    states = [_state(path, key) for path in paths]
    if None in states:
        more = vocabularies(store, config.vocabularies, words_folder)
        colours = palette(policy, cache.human[rows], noise, config, seed, more)
        about = columns(policy, colours, config)
        done = sum(state is not None for state in states)

        def drawn() -> Iterator[_Shard]:
            """What is missing, one after the other, as the sources of chance want it; scored it may be in any order."""
            for number, (path, part) in enumerate(zip(paths, parts, strict=True)):
                if states[number] is not None:
                    continue
                source = _source(seed, states[number - 1] if number else None)
                poses = candidates(policy, cache, part, colours, config, seed, source)
                states[number] = _state_of(source)
                yield _Shard(path=path, rows=part, poses=poses, notes={"key": key, "shards": len(parts), "state": states[number]})

        work = partial(_label, store=store, about=about)
        lost = work_off(drawn(), work, 1 if cluster is None else None, "labels (shards)", done, cluster, len(parts) - done)
        if lost:
            place, how = min(lost.items())
            raise ValueError(f"{folder}: the process that labelled the {place + 1}. of its missing shards {how}; what was finished is kept")
    return opened(folder)


def shifted(
    policy: Policy,
    store: Store,
    rows: Int[np.ndarray, "scenes"],
    noise: ExplorationConfig,
    config: CandidatesConfig,
    seed: int,
    folder: Path,
    data_folder: Path,
    cluster: str | None = None,
) -> tuple[SceneCache, Labelled, tuple[str, ...]]:
    """Labelled candidates of shifted copies of some scenes, `config.shifted` says how far.

    Args:
        policy: whose plans are candidates.
        store: scenes of the embedded world.
        rows: which of them.
        noise: exploration of the policy.
        config: kinds of candidates.
        seed: of all chance.
        folder: of the set.
        data_folder: gets the shifted scenes' logs, pictures, store and scene tokens.
        cluster: as in `labelled`.

    Returns:
        The shifted scenes as the policy's vision part sees them, their labels, and the logs that the labelled ones were made from.
    """
    moved = shifted_store(store, rows, data_folder, config.shifted, seed)
    cache = scene_cache(policy, moved, np.arange(len(moved)), folder=data_folder / "tokens")
    kept = labelled(policy, cache, moved, sound(moved), noise, config, seed, folder, data_folder / "vocabularies", cluster)
    logs = sources(moved)
    return cache, kept, tuple(logs[row][0] for row in kept.rows)


def opened(folder: Path) -> Labelled:
    """A set that is finished.

    Raises:
        ValueError: there is none, a shard is missing or damaged, or they are not of one set.
    """
    paths = sorted(folder.glob("shard-*.arrow"))
    if not paths:
        raise ValueError(f"{folder} holds no labels")
    tables = [_table(path) for path in paths]
    notes = [_notes(table) for table in tables]
    count, shards, keys = notes[0]["candidates"], notes[0]["shards"], {note["key"] for note in notes}
    if len(keys) > 1 or shards != len(paths):
        raise ValueError(
            f"{folder} is half written: {len(paths)} of {shards} shards, of {len(keys)} keys; label again, what is done is kept"
        )
    first = tables[0].slice(0, count)
    kinds = [KIND_NAMES.index(name) for name in first["kind"].to_pylist()]
    return Labelled(
        rows=np.concatenate([table["row"].to_numpy()[::count] for table in tables]),
        poses=Parts([_values(table, "poses").reshape(-1, count, 8, 3) for table in tables]),
        labels=Parts([_values(table, "labels").reshape(-1, count, len(HEADS)) for table in tables]),
        raw_labels=Parts([_values(table, "raw_labels").reshape(-1, count, len(HEADS)) for table in tables]),
        kinds=np.array(kinds, dtype=np.int64),
        vocabulary=first["vocabulary"].to_numpy().astype(np.int64),
    )


def labels_key(
    policy: Policy, store: Store, rows: Int[np.ndarray, "scenes"], noise: ExplorationConfig, config: CandidatesConfig, seed: int
) -> str:
    """A hash of all that labels depend on: scenes, policy, candidates, chance, code."""
    settings = [FORMAT, store.key, asdict(noise), asdict(replace(config, shifted=None)), seed, SCENES_A_SHARD, origin.code_hash(CODE)]
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(f"{policy.config} {policy.scale.device.type}".encode())
    for name, tensor in sorted(policy.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    digest.update(np.asarray(rows, dtype=np.int64).tobytes())
    return digest.hexdigest()


def human_filtered(raw: Float[np.ndarray, "trajectories 8"], human_zero: Bool[np.ndarray, "8"]) -> Float[np.ndarray, "trajectories 8"]:
    """Sub-scores (in the order of HEADS) as they are reported: 1 where the human plan itself has 0."""
    return np.where(human_zero, 1.0, raw)


def scored(
    store: Store, rows: Int[np.ndarray, "scenes"], poses: Float[np.ndarray, "scenes candidates 8 3"]
) -> tuple[Float[np.ndarray, "scenes candidates 8"], Float[np.ndarray, "scenes candidates 8"]]:
    """Exact sub-scores of candidates, human-filtered and raw, from one simulation of each; scenes side by side in threads."""

    def both(place: int) -> tuple[np.ndarray, np.ndarray]:
        scene = store.prepared(int(rows[place]))
        scores = sub_scores(scene, poses[place].astype(np.float64), human_filter=False)
        raw = np.stack([getattr(scores, name) for name in HEADS], axis=-1)
        return human_filtered(raw, scene.human_zero), raw

    with ThreadPoolExecutor(THREADS) as pool:
        pairs = list(pool.map(both, range(len(rows))))
    return np.stack([filtered for filtered, _ in pairs]), np.stack([raw for _, raw in pairs])


def write_shard(
    path: Path,
    tokens: Sequence[str],
    rows: Int[np.ndarray, "scenes"],
    poses: Float[np.ndarray, "scenes candidates 8 3"],
    labels: Float[np.ndarray, "scenes candidates 8"],
    raw_labels: Float[np.ndarray, "scenes candidates 8"],
    about: Columns,
    notes: dict[str, Any],
) -> None:
    """Writes some scenes' labelled candidates as one file, which appears whole or not at all.

    Args:
        path: of the file.
        tokens: of the scenes.
        rows: of the scenes in their store.
        poses: m and rad.
        labels: human-filtered sub-scores in the order of HEADS.
        raw_labels: the same without the human filter.
        about: kind and vocabulary of each candidate.
        notes: `key` of the set, its number of `shards`, `state` of the sources of chance after this one.
    """
    scenes, count = poses.shape[:2]
    arrays = [
        pa.DictionaryArray.from_arrays(np.repeat(np.arange(scenes, dtype=np.int32), count), pa.array(tokens, pa.string())),
        pa.array(np.repeat(rows, count), pa.int64()),
        pa.array(np.tile(np.arange(count), scenes), pa.int32()),
        pa.DictionaryArray.from_arrays(np.tile(about.kinds, scenes).astype(np.int8), pa.array(KIND_NAMES)),
        pa.array(np.tile(about.vocabulary, scenes), pa.int32()),
        *(
            pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).reshape(-1)), values[0, 0].size)
            for values in (poses, labels, raw_labels)
        ),
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
    notes = {**notes, "candidates": count}
    schema = SCHEMA.with_metadata({"labels": json.dumps({**notes, "sum": _sum(pa.Table.from_batches([batch]), notes)})})
    with replaced(path) as beside, pa.OSFile(str(beside), "wb") as stream, pa.ipc.new_file(stream, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _state_of(source: Chance) -> dict[str, Any]:
    return {"chains": source.chains.get_state().numpy().tobytes().hex(), "words": source.words.bit_generator.state}


def _source(seed: int, state: dict[str, Any] | None) -> Chance:
    """Sources of chance as they stood after a shard; fresh ones before the first."""
    source = chance(seed)
    if state is not None:
        source.chains.set_state(torch.frombuffer(bytearray.fromhex(state["chains"]), dtype=torch.uint8))
        source.words.bit_generator.state = state["words"]
    return source


def _state(path: Path, key: str) -> dict[str, Any] | None:
    """The states of chance after a finished shard, None where there is no whole one of this key."""
    try:
        notes = _notes(_table(path)) if path.exists() else {}
    except ValueError:
        return None
    return notes["state"] if notes.get("key") == key else None


def _table(path: Path) -> pa.Table:
    """A shard, mapped.

    Raises:
        ValueError: it is no shard, or is damaged.
    """
    try:
        # What was read keeps the map open, not the file: sets of thousands of shards need no file handles.
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not table.schema.equals(SCHEMA) or b"labels" not in (table.schema.metadata or {}):
        raise ValueError(f"{path} is no shard of labels: its columns are {', '.join(table.column_names)}")
    try:
        notes = _notes(table)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: its notes are no JSON ({error})") from error
    # Versions before this sum left none.
    if not isinstance(notes, dict) or ("sum" in notes and notes["sum"] != _sum(table, notes)):
        raise ValueError(f"{path} is damaged: it does not hold what was written")
    return table


def _sum(table: pa.Table, notes: dict[str, Any]) -> int:
    """A sum by which a changed shard is known: of its notes and of all that its columns hold."""
    found = zlib.crc32(json.dumps({key: value for key, value in notes.items() if key != "sum"}, sort_keys=True).encode())
    for column in table.columns:
        for chunk in column.chunks:
            found = _array_sum(chunk, found)
    return found


def _array_sum(array: pa.Array, found: int) -> int:
    if isinstance(array, pa.DictionaryArray):
        return _array_sum(array.dictionary, _array_sum(array.indices, found))
    if isinstance(array, pa.FixedSizeListArray):
        return _array_sum(array.flatten(), found)
    values = "\n".join(array.to_pylist()).encode() if array.type == pa.string() else array.to_numpy(zero_copy_only=True)
    return zlib.crc32(values, found)


def _notes(table: pa.Table) -> dict[str, Any]:
    return json.loads(table.schema.metadata[b"labels"])


def _values(table: pa.Table, name: str) -> np.ndarray:
    """A column of lists of numbers as a flat array that is mapped from the file."""
    return table[name].chunk(0).flatten().to_numpy(zero_copy_only=True)
