"""The scores that can be asked for: their names, stated in every output, and what each means."""

from typing import Literal

Definition = Literal["epdms", "epdms_unfiltered"]
"""What can be asked for by name."""

EPDMS: Definition = "epdms"
"""The devkit's score, and what every verb reports unless it is asked for another."""

DEFINITIONS: dict[Definition, str] = {
    "epdms": "NAVSIM v2's one-stage EPDMS; a sub-score in which the human driver has 0 counts as 1 (human filter)",
    "epdms_unfiltered": "the same without the human filter: every sub-score as the trajectory earned it",
}
"""Name -> meaning: the only place that lists them. docs/epdms.md has the formula and its sources."""

TWO_STAGE = "epdms_two_stage"
TWO_STAGE_MEANING = (
    "NAVSIM v2's two-stage EPDMS: plans of logged scenes (human filter) times plans of the synthetic scenes that follow, "
    "weighted by how near they begin to where the first plan ends"
)
"""What a submission is scored by; no single plan has this score."""


Traffic = Literal["log_replay", "idm"]
"""How other road users move: as they were logged, or reacting to the ego."""

TRAFFIC: dict[Traffic, str] = {
    "log_replay": "others move as they were logged",
    "idm": "vehicles follow their lanes behind what is ahead, the ego included (IDM); others move as they were logged",
}
"""Name -> meaning."""


def check_traffic(traffic: str) -> None:
    """Refuses a way of moving that has no name here.

    Raises:
        ValueError: No traffic has that name.
    """
    if traffic not in TRAFFIC:
        raise ValueError(f"unknown traffic {traffic!r}; known: {', '.join(TRAFFIC)}")


def human_filter(definition: str) -> bool:
    """Whether a definition has the human filter: what `irlvla.score` takes as its argument of that name.

    Raises:
        ValueError: No definition has that name.

    Example:
        >>> human_filter("epdms"), human_filter("epdms_unfiltered")
        (True, False)
    """
    if definition not in DEFINITIONS:
        raise ValueError(f"unknown definition {definition!r}; known: {', '.join(DEFINITIONS)}")
    return definition == EPDMS
