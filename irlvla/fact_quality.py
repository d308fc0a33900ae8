"""How often written rationales are right: precision and recall of everything that they can state, against the log's facts.

Resampled by whole logs, since windows of one log are not independent. A malformed text states nothing: it costs recall, and is counted by
itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from irlvla.rationale import FIELDS, PHRASES

ANY = {"lead": "vehicle ahead", "light": "red light"}
"""Fields of which it is also asked whether anything is stated at all, wherever it is."""
STATEMENTS = tuple(
    (field, value, phrase)
    for field in FIELDS
    for value, phrase in [*([(-1, ANY[field])] if field in ANY else []), *enumerate(PHRASES[field])]
    if phrase
)
"""What a text can state: field, value (-1: any that speaks), and its name in reports."""
RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What was stated of every scene and what is true there, a column for each of STATEMENTS: enough to judge any multiset of logs."""

    log_names: tuple[str, ...]
    stated: Bool[np.ndarray, "scenes statements"]
    true: Bool[np.ndarray, "scenes statements"]
    malformed: Bool[np.ndarray, "scenes"]
    exact: Bool[np.ndarray, "scenes"]
    """Every fact of the text is the log's."""

    def __post_init__(self) -> None:
        if len(self.log_names) != len(self.stated):
            raise ValueError(f"{len(self.log_names)} log names for {len(self.stated)} scenes")


def statements(written: Int[np.ndarray, "scenes fields"], logged: Int[np.ndarray, "scenes fields"], log_names: Sequence[str]) -> Stated:
    """What texts state beside what the log says, for the scenes whose facts are known.

    Args:
        written: facts of the texts, a row of -1 for a malformed one (`irlvla.rationale.stated`).
        logged: facts of the log, a row with -1 where they are not known (a scene without annotations): such scenes are left out.
        log_names: each scene's log.

    Raises:
        ValueError: no scene has known facts, or scenes and log names differ in number.
    """
    if len(logged) != len(log_names):
        raise ValueError(f"{len(log_names)} log names for {len(logged)} scenes")
    known = (logged >= 0).all(axis=1)
    if not known.any():
        raise ValueError(f"none of {len(logged)} scenes has known facts")
    written, logged = written[known], logged[known]
    return Stated(
        log_names=tuple(name for name, is_known in zip(log_names, known, strict=True) if is_known),
        stated=_columns(written),
        true=_columns(logged),
        malformed=(written < 0).any(axis=1),
        exact=(written == logged).all(axis=1),
    )


def fact_quality(scenes: Stated, seed: int = 0) -> dict[str, Any]:
    """The report, shares in [0, 1]; None where a share is not defined (nothing stated, nothing true).

    Args:
        scenes: `statements(...)`.
        seed: of the resampling of logs.

    Returns:
        "scenes", "logs"; "malformed" and "exact" (all facts right) as {"value", "ci95"}; "statements": for each its "name", "field", how
        many scenes "stated" it and in how many it is "true", "precision" and "recall".
    """
    _, log = np.unique(np.asarray(scenes.log_names), return_inverse=True)
    logs = int(log.max()) + 1
    weights = np.random.default_rng(seed).multinomial(logs, np.full(logs, 1 / logs), size=RESAMPLES).astype(np.float64)
    every = np.ones(len(log), bool)
    rows = []
    for column, (field, _, name) in enumerate(STATEMENTS):
        stated, true = scenes.stated[:, column], scenes.true[:, column]
        row: dict[str, Any] = {"name": name, "field": field, "stated": int(stated.sum()), "true": int(true.sum())}
        row["precision"] = _share(stated & true, stated, log, weights)
        row["recall"] = _share(stated & true, true, log, weights)
        rows.append(row)
    return {
        "scenes": len(log),
        "logs": logs,
        "malformed": _share(scenes.malformed, every, log, weights),
        "exact": _share(scenes.exact, every, log, weights),
        "statements": rows,
    }


def quality_table(report: dict[str, Any]) -> str:
    """A report's statements as lines of text, shares in per cent."""
    lines = [f"{'statement':26}{'true':>7}{'stated':>8}  {'precision':24}recall"]
    for row in report["statements"]:
        lines.append(f"{row['name']:26}{row['true']:7}{row['stated']:8}  {_percent(row['precision']):24}{_percent(row['recall'])}")
    lines.append(
        f"malformed {_percent(report['malformed'])}; all facts right {_percent(report['exact'])}; {report['scenes']} scenes of {report['logs']} logs"
    )
    return "\n".join(lines)


def _columns(facts: Int[np.ndarray, "scenes fields"]) -> Bool[np.ndarray, "scenes statements"]:
    columns = []
    for field, value, _ in STATEMENTS:
        values = facts[:, FIELDS.index(field)]
        columns.append(values > 0 if value < 0 else values == value)
    return np.stack(columns, axis=1)


def _share(
    hits: Bool[np.ndarray, "scenes"],
    among: Bool[np.ndarray, "scenes"],
    log: Int[np.ndarray, "scenes"],
    weights: Float[np.ndarray, "resamples logs"],
) -> dict[str, Any]:
    """Hits among scenes, and its 95 % interval over the resampled data sets on which it is defined."""
    above, below = (weights @ np.bincount(log, weights=chosen, minlength=weights.shape[1]) for chosen in (hits, among))
    draws = above[below > 0] / below[below > 0]
    value = float(hits.sum() / among.sum()) if among.any() else None
    return {"value": value, "ci95": np.quantile(draws, [0.025, 0.975]).tolist() if len(draws) else None}


def _percent(share: dict[str, Any]) -> str:
    if share["value"] is None:
        return "-"
    low, high = share["ci95"]
    return f"{100 * share['value']:.1f} ({100 * low:.1f} .. {100 * high:.1f})"
