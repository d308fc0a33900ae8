"""A moment's facts as short English and back: fixed templates, a strict reader, and the words that both are made of.

Facts are rows of small integers, one a field, as the store keeps them; `irlvla.data.facts` names the values, and the rules by which they
follow from a log. Nothing here learns: the language models of `irlvla.model` are taught these texts, and what they write goes through
`parsed` before anything else sees it.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from irlvla.types import COMMAND_NAMES

PHRASES: dict[str, tuple[str, ...]] = {
    "lead": ("", "vehicle ahead near", "vehicle ahead mid", "vehicle ahead far"),
    "lead_motion": ("", "stopped", "slower", "same speed", "faster"),
    "light": ("", "red light near", "red light mid", "red light far"),
    "pedestrian": ("", "pedestrian ahead"),
    "turn": ("", "turn left", "turn right"),
    "lateral": ("lateral keep", "lateral left", "lateral right", "lateral change-left", "lateral change-right"),
    "longitudinal": ("longitudinal stop", "longitudinal slow", "longitudinal keep", "longitudinal accelerate"),
}
"""Field -> what is said of it, by value; "" says nothing. Fields and values are in the order of `irlvla.data.facts.FACT_NAMES`."""
FIELDS = tuple(PHRASES)
CLAUSES = (("lead", "lead_motion"), ("light",), ("pedestrian",), ("turn",), ("lateral", "longitudinal"))
"""Fields that one clause speaks of, in the order of a text. The last clause, the meta action, is always there."""
OBSERVED = 3
"""The first clauses say what is in the way; where all of them are silent the text begins with FREE."""
FREE = "free road"

SPEED_WORDS = tuple(str(speed) for speed in range(31))
"""Whole m/s; the last means that or more."""
ACCELERATION_WORDS = ("braking-hard", "braking", "steady", "accelerating", "accelerating-hard")
ACCELERATION_EDGES = (-2.0, -0.5, 0.5, 2.0)
"""m/s^2, forward."""
YAW_WORDS = ("turning-right-hard", "turning-right", "straight-on", "turning-left", "turning-left-hard")
YAW_EDGES = (-0.2, -0.04, 0.04, 0.2)
"""rad/s, left positive."""
PERIOD = 0.5
"""s between frames of the ego history."""

PAD, START, END = "<pad>", "<start>", "<end>"
PAD_ID, START_ID, END_ID = 0, 1, 2


def rationale(facts: Int[np.ndarray, "fields"]) -> str:
    """The text of one moment's facts.

    Args:
        facts: values of FIELDS.

    Raises:
        ValueError: a value is unknown (-1) or not one of its field's, or the facts contradict each other (the motion of a vehicle that is
        not there).

    Example:
        >>> rationale(np.array([1, 1, 1, 0, 1, 1, 0]))
        'vehicle ahead near, stopped; red light near; turn left; lateral left, longitudinal stop'
        >>> rationale(np.array([0, 0, 0, 0, 0, 0, 2]))
        'free road; lateral keep, longitudinal keep'
    """
    if len(facts) != len(FIELDS):
        raise ValueError(f"{len(facts)} facts, {len(FIELDS)} are needed: {', '.join(FIELDS)}")
    values = dict(zip(FIELDS, facts.tolist(), strict=True))
    for name, value in values.items():
        if not 0 <= value < len(PHRASES[name]):
            raise ValueError(f"fact {name} is {value}, it can be 0 to {len(PHRASES[name]) - 1}")
    texts = []
    for names in CLAUSES:
        text = _clause(tuple(values[name] for name in names), names)
        if text is None:
            raise ValueError(f"facts contradict each other: {', '.join(f'{name} {values[name]}' for name in names)}")
        texts.append(text)
    if not any(texts[:OBSERVED]):
        texts.insert(0, FREE)
    return "; ".join(text for text in texts if text)


def parsed(text: str) -> Int[np.ndarray, "fields"] | None:
    """The facts that a text states, None unless it is exactly the text of some facts.

    Example:
        >>> parsed("red light far; lateral keep, longitudinal slow")
        array([0, 0, 3, 0, 0, 0, 1])
        >>> parsed("free road; red light far; lateral keep, longitudinal slow") is None
        True
    """
    values, clause = dict.fromkeys(FIELDS, 0), 0
    for part in text.removeprefix(f"{FREE}; ").split("; "):
        while clause < len(CLAUSES) and part not in _READINGS[clause]:
            clause += 1
        if clause == len(CLAUSES):
            return None
        values |= zip(CLAUSES[clause], _READINGS[clause][part], strict=True)
        clause += 1
    facts = np.array([values[name] for name in FIELDS])
    # What is left out or said twice, out of order or in contradiction has another text of its own, or none.
    return facts if rationale(facts) == text else None


def prompts(ego_history: Float[np.ndarray, "scenes 4 7"], command: Float[np.ndarray, "scenes 4"]) -> list[str]:
    """What the model is told of each moment beside its pictures: command, speed (whole m/s), acceleration and yaw rate in words.

    Args:
        ego_history: as in `Features`.
        command: one-hot over COMMAND_NAMES.

    Returns:
        Texts of the same number of words.

    Example:
        >>> history = np.zeros((1, 4, 7))
        >>> history[:, :, 3], history[:, 2, 2] = 6.8, -0.05
        >>> prompts(history, np.array([[1.0, 0.0, 0.0, 0.0]]))
        ['command left, speed 7, steady, turning-left']
    """
    speed = np.clip(np.round(np.hypot(ego_history[:, -1, 3], ego_history[:, -1, 4])), 0, len(SPEED_WORDS) - 1).astype(int)
    acceleration = np.digitize(ego_history[:, -1, 5], ACCELERATION_EDGES)
    yaw = np.digitize((ego_history[:, -1, 2] - ego_history[:, -2, 2]) / PERIOD, YAW_EDGES)
    rows = zip(command.argmax(1).tolist(), speed.tolist(), acceleration.tolist(), yaw.tolist(), strict=True)
    return [
        f"command {COMMAND_NAMES[said]}, speed {SPEED_WORDS[fast]}, {ACCELERATION_WORDS[push]}, {YAW_WORDS[bend]}"
        for said, fast, push, bend in rows
    ]


def words(text: str) -> list[str]:
    """A text's words; commas and semicolons are words.

    Example:
        >>> words("red light far; lateral keep, longitudinal slow")
        ['red', 'light', 'far', ';', 'lateral', 'keep', ',', 'longitudinal', 'slow']
    """
    return text.replace(",", " ,").replace(";", " ;").split()


def encoded(texts: Sequence[str], vocabulary: Sequence[str], length: int) -> Int[np.ndarray, "texts length"]:
    """Texts as ids of their words, padded with PAD_ID at the end.

    Args:
        texts: any of them may be "".
        vocabulary: the words by id.
        length: words a row.

    Raises:
        ValueError: a text has a word that the vocabulary does not know, or more words than `length`.
    """
    index = {word: number for number, word in enumerate(vocabulary)}
    ids = np.full((len(texts), length), PAD_ID)
    for row, text in enumerate(texts):
        found = words(text)
        if len(found) > length:
            raise ValueError(f"text {text[:100]!r} has {len(found)} words, at most {length} fit")
        unknown = [word for word in found if word not in index]
        if unknown:
            raise ValueError(f"text {text[:100]!r}: the vocabulary of {len(index)} words does not know {unknown[0][:100]!r}")
        ids[row, : len(found)] = [index[word] for word in found]
    return ids


def decoded(ids: Int[np.ndarray, "length"], vocabulary: Sequence[str]) -> str:
    """The text of word ids up to the first end or padding."""
    found = []
    for number in ids.tolist():
        if number in (PAD_ID, END_ID):
            break
        found.append(vocabulary[number])
    return " ".join(found).replace(" ,", ",").replace(" ;", ";")


def stated(ids: Int[np.ndarray, "scenes length"], vocabulary: Sequence[str]) -> Int[np.ndarray, "scenes fields"]:
    """The facts that written texts state, a row of -1 for each that is malformed or empty: those must go no further."""
    facts = np.full((len(ids), len(FIELDS)), -1)
    for row, written in zip(facts, ids, strict=True):
        found = parsed(decoded(written, vocabulary)) if END_ID in written else None
        if found is not None:
            row[:] = found
    return facts


def rationale_ids(facts: Int[np.ndarray, "scenes fields"], vocabulary: Sequence[str]) -> Int[np.ndarray, "scenes longest"]:
    """What a model is to write for each scene: the ids of the facts' text and of END; padding alone where a fact is unknown (-1).

    Raises:
        ValueError: facts that are not unknown have no text (`rationale`), or the vocabulary lacks one of its words.
    """
    texts = ["" if (row < 0).any() else f"{rationale(row)} {END}" for row in facts]
    return encoded(texts, vocabulary, LONGEST)


def word_weights(
    facts: Int[np.ndarray, "scenes fields"], vocabulary: Sequence[str], power: float = 0.5, most: float = 8.0
) -> Float[np.ndarray, "words"]:
    """How much each word should weigh when texts are learned: rare facts would else not be learned at all.

    Args:
        facts: of the training scenes.
        vocabulary: the words by id.
        power: of the number of texts a time that a word is written; 0 weighs all words alike.
        most: the highest weight.

    Returns:
        At least 1, which is the weight of a word that every text has.

    Example:
        >>> free, red = [0, 0, 0, 0, 0, 0, 2], [0, 0, 1, 0, 0, 0, 2]
        >>> weights = word_weights(np.array([free] * 3 + [red]), VOCABULARY)
        >>> [float(weights[VOCABULARY.index(word)]) for word in ("longitudinal", "red", "pedestrian")]
        [1.0, 2.0, 8.0]
    """
    ids = rationale_ids(facts, vocabulary)
    counts = np.bincount(ids[ids != PAD_ID], minlength=len(vocabulary))
    texts = max(1, counts[END_ID])
    return np.where(counts > 0, np.clip((texts / np.maximum(counts, 1)) ** power, 1.0, most), most if power > 0 else 1.0)


def grammar(vocabulary: Sequence[str]) -> Int[np.ndarray, "states words"]:
    """All texts that `parsed` understands, as an automaton: the state that follows from a state and a word, -1 where the word is wrong
    there.

    A text begins in state 0 and ends with END, after which only padding follows.

    Args:
        vocabulary: the words by id.

    Raises:
        ValueError: the vocabulary lacks a word of the texts.
    """
    index = {word: number for number, word in enumerate(vocabulary)}
    lacking = sorted(set(VOCABULARY) - set(index))
    if lacking:
        raise ValueError(f"the vocabulary of {len(index)} words lacks {lacking[0]!r}")
    # A state is the set of what may still come: words left of the clause being read, and the clause after it.
    first = _following(0, ()) | {(tuple(words(FREE)), OBSERVED)}
    states, rows = {first: 0}, []
    waiting = [first]
    while waiting:
        row = np.full(len(vocabulary), -1)
        choices: dict[str, set] = {}
        for left, clause in waiting.pop(0):
            choices.setdefault(left[0], set()).add((left[1:], clause))
        for word, rest in choices.items():
            state = frozenset().union(*(_following(clause, (";",)) if not left else {(left, clause)} for left, clause in rest))
            if state not in states:
                states[state] = len(states)
                waiting.append(state)
            row[index[word]] = states[state]
        rows.append(row)
    return np.stack(rows)


def _clause(values: tuple[int, ...], names: tuple[str, ...]) -> str | None:
    """One clause's text, None where its facts contradict each other."""
    phrases = [PHRASES[name][value] for name, value in zip(names, values, strict=True)]
    # The fields of a clause speak together or not at all: there is no motion without a vehicle.
    return None if len({bool(phrase) for phrase in phrases}) > 1 else ", ".join(phrase for phrase in phrases if phrase)


def _readings(names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Texts of a clause -> values of its fields."""
    every = np.indices([len(PHRASES[name]) for name in names]).reshape(len(names), -1).T.tolist()
    texts = {_clause(tuple(values), names): tuple(values) for values in every}
    return {text: values for text, values in texts.items() if text}


def _following(clause: int, mark: tuple[str, ...]) -> frozenset:
    """What may come where `clause` is the next one that could speak: (words of a clause, the clause after it)."""
    if clause == len(CLAUSES):
        return frozenset({((END,), clause + 1)})
    if clause > len(CLAUSES):
        return frozenset({((PAD,), clause)})
    found = {(mark + tuple(words(text)), clause + 1) for text in _READINGS[clause]}
    # Observations may be left out after another one, never all of them: then the text says so.
    skipped = clause < len(CLAUSES) - 1 and (mark or clause + 1 < OBSERVED)
    return frozenset(found | _following(clause + 1, mark)) if skipped else frozenset(found)


_READINGS = tuple(_readings(names) for names in CLAUSES)
LONGEST = len(words(FREE)) + 1 + sum(1 + max(len(words(text)) for text in readings) for readings in _READINGS)
"""Words of the longest text, END included; a little more than any text needs."""
PROMPT_LENGTH = len(words(prompts(np.zeros((1, 4, 7)), np.eye(4)[:1])[0]))
"""Words of every prompt."""
_SAID = {word for readings in _READINGS for text in readings for word in words(text)} | set(words(FREE)) | {";"}
_TOLD = {"command", "speed", ",", *COMMAND_NAMES, *SPEED_WORDS, *ACCELERATION_WORDS, *YAW_WORDS}
VOCABULARY = (PAD, START, END, *sorted(_SAID | _TOLD))
"""Every word of prompts and texts, by id."""
