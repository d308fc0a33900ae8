"""What a log says about a moment in words: the road ahead, and what the human does about it. Labels for semantic reasoning."""

from dataclasses import dataclass, fields

LEAD_NAMES = ("none", "near", "mid", "far")
MOTION_NAMES = ("none", "stopped", "slower", "same", "faster")
LIGHT_NAMES = ("none", "near", "mid", "far")
PEDESTRIAN_NAMES = ("none", "ahead")
TURN_NAMES = ("none", "left", "right")
LATERAL_NAMES = ("keep", "left", "right", "lane_change_left", "lane_change_right")
LONGITUDINAL_NAMES = ("stop", "slow", "keep", "accelerate")
FACT_NAMES = {
    "lead": LEAD_NAMES,
    "lead_motion": MOTION_NAMES,
    "light": LIGHT_NAMES,
    "pedestrian": PEDESTRIAN_NAMES,
    "turn": TURN_NAMES,
    "lateral": LATERAL_NAMES,
    "longitudinal": LONGITUDINAL_NAMES,
}
"""Field of Facts -> what its values are indices into. In this order they are the columns of arrays of facts, where -1 is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is said about one moment, indices into the names in FACT_NAMES. The first five are seen, the last two are the meta action.

    The road is free where `lead`, `light` and `pedestrian` are none. `lead_motion` is none where and only where `lead` is.
    """

    lead: int
    """The next vehicle or bicycle on the ego's way, by distance."""
    lead_motion: int
    """How it moves, compared with the ego."""
    light: int
    """A red light on the ego's way, by distance."""
    pedestrian: int
    """Whether someone on foot is on the ego's way or about to step onto it."""
    turn: int
    """Where the way ahead turns."""
    lateral: int
    """What the human does with the wheel in the next 4 s."""
    longitudinal: int
    """What the human does with the pedals in the next 4 s."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, names = getattr(self, field.name), FACT_NAMES[field.name]
            if not 0 <= value < len(names):
                raise ValueError(f"facts: {field.name} is {value}, not 0 .. {len(names) - 1} ({', '.join(names)})")
        if (self.lead == 0) != (self.lead_motion == 0):
            raise ValueError(f"facts: lead is {LEAD_NAMES[self.lead]}, but lead_motion {MOTION_NAMES[self.lead_motion]}")
