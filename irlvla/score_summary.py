"""A table of scores in one page: means with intervals, ADE and FDE, what failed, and where the numbers come from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from irlvla import origin
from irlvla.definitions import DEFINITIONS, TRAFFIC
from irlvla.intervals import intervals_of_sums
from irlvla.score_parts import NAMES, ScoredScene, replaced

METRES = ("ade", "fde")


def summary(definition: str, scenes: Sequence[ScoredScene], failures: Mapping[str, str]) -> dict[str, Any]:
    """What the summary file holds beside its inputs.

    Means run over trajectories; intervals (95 %) resample logs. Scores are 0-100, distances in m; a column that is nowhere
    defined (EC without plans of the frame before) has None.

    Args:
        definition: Of the score.
        scenes: All that were scored.
        failures: Scene token (or log) -> reason.
    """
    return {
        "definition": definition,
        "meaning": DEFINITIONS[definition],
        "scenes": len(scenes),
        "logs": len({scene.log_name for scene in scenes}),
        "trajectories": sum(scene.rows for scene in scenes),
        "failed": dict(failures),
        "columns": _columns(scenes),
        "commit": origin.commit(),
        "version": origin.package_version(),
        "command": origin.command(),
        "machine": origin.machine(),
    }


def _columns(scenes: Sequence[ScoredScene]) -> dict[str, dict[str, Any]]:
    if not scenes:
        return {name: {"mean": None, "ci95": None, "trajectories": 0} for name in NAMES}
    _, log = np.unique([scene.log_name for scene in scenes], return_inverse=True)
    sums, counts = np.zeros((log.max() + 1, len(NAMES))), np.zeros((log.max() + 1, len(NAMES)))
    rows = np.array([[scene.rows_with_ec if name == "ec" else scene.rows for name in NAMES] for scene in scenes])
    np.add.at(sums, log, np.array([scene.sums for scene in scenes]))
    np.add.at(counts, log, rows)
    ends = intervals_of_sums(sums, np.maximum(counts, 1))
    ec = NAMES.index("ec")
    with_ec = counts[:, ec] > 0
    if with_ec.any() and not with_ec.all():
        ends[ec] = intervals_of_sums(sums[with_ec][:, [ec]], counts[with_ec][:, [ec]])[0]
    found = {}
    for column, name in enumerate(NAMES):
        number, scale = int(counts[:, column].sum()), 1 if name in METRES else 100
        mean = scale * float(sums[:, column].sum() / number) if number else None
        found[name] = {"mean": mean, "ci95": [scale * end for end in ends[column].tolist()] if number else None, "trajectories": number}
    return found


def write_summary(path: Path, folder: Path, found: Mapping[str, Any]) -> None:
    """Writes the summary as JSON; the file appears whole or not at all. `folder` is that of the table's parts."""
    with replaced(path, folder) as new:
        new.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def summary_text(found: Mapping[str, Any]) -> str:
    """The summary as it is printed."""
    lines = [
        f"{found['trajectories']} trajectories of {found['scenes']} scenes of {found['logs']} logs in {found['seconds']:.1f} s",
        f"{found['definition']}: {found['meaning']}",
        f"traffic {found['traffic']}: {TRAFFIC[found['traffic']]}",
        f"{'':8s}{'mean':>8s}   95 % (logs resampled)",
    ]
    for name, about in found["columns"].items():
        if about["mean"] is not None:
            unit, digits = (" m", 2) if name in METRES else ("", 1)
            low, high = about["ci95"]
            lines.append(f"{name.upper():8s}{about['mean']:8.{digits}f}   {low:.{digits}f} .. {high:.{digits}f}{unit}")
    return "\n".join(lines)
