"""Light and colours of one log: the same town looks different at noon, under clouds and in the evening."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

RGB = Float[np.ndarray, "3"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Light and colours of one log. Colours are RGB in 0..255 as seen under full light.

    `sun` points from the ground to the sun (global, unit length) and is scaled by `sun_strength`; `ambient` is the light
    that comes from everywhere. `haze` is the distance in m at which a third of a thing's own colour is left.
    """

    sun: Float[np.ndarray, "3"]
    sun_strength: float
    ambient: float
    haze: float
    tint: RGB
    """Colour of the light, about 1 in each channel."""
    sky_top: RGB
    sky_horizon: RGB
    asphalt: RGB
    pavement: RGB
    grass: RGB
    leaves: RGB

    def __post_init__(self) -> None:
        if abs(float(np.linalg.norm(self.sun)) - 1.0) > 1e-6 or self.sun[2] <= 0:
            raise ValueError(f"the sun's direction {self.sun} is not of length 1 or lies below the horizon")
        if self.haze <= 0:
            raise ValueError(f"haze is a distance above 0, not {self.haze}")


def look(seed: int) -> Look:
    """Light and colours drawn by a seed: sunny, overcast or evening."""
    random = np.random.default_rng([seed, 40])
    kind = random.choice(3, p=[0.5, 0.3, 0.2])
    azimuth = random.uniform(-np.pi, np.pi)
    elevation = np.radians(random.uniform(30, 65) if kind < 2 else random.uniform(8, 16))
    sun = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    strength, ambient = ((0.62, 0.55), (0.18, 0.80), (0.55, 0.66))[kind]
    tint = np.array(((1.0, 0.99, 0.96), (0.96, 0.98, 1.0), (1.08, 0.96, 0.82))[kind])
    sky_top = np.array(((72, 124, 196), (158, 168, 178), (88, 100, 150))[kind], float)
    sky_horizon = np.array(((188, 210, 230), (196, 200, 204), (238, 190, 150))[kind], float)
    dusk = 0.86 if kind == 2 else 1.0
    grey = random.uniform(82, 112)
    pale = random.uniform(150, 182)
    return Look(
        sun=sun / np.linalg.norm(sun),
        sun_strength=float(strength * random.uniform(0.85, 1.1) * dusk),
        ambient=float(ambient * random.uniform(0.93, 1.07) * dusk),
        haze=float(random.uniform(350, 900) if kind != 1 else random.uniform(220, 500)),
        tint=tint,
        sky_top=sky_top * random.uniform(0.9, 1.08),
        sky_horizon=np.minimum(sky_horizon * random.uniform(0.94, 1.06), 250.0),
        asphalt=grey * np.array([1.0, 1.0, random.uniform(0.99, 1.06)]),
        pavement=pale * np.array([1.0, random.uniform(0.96, 0.99), random.uniform(0.88, 0.97)]),
        grass=np.array([random.uniform(82, 128), random.uniform(118, 148), random.uniform(52, 76)]),
        leaves=np.array([random.uniform(48, 92), random.uniform(88, 122), random.uniform(36, 58)]),
    )


def look_values(look: Look) -> Float[np.ndarray, "values"]:
    """All numbers of a look in one row, in the order of its fields: what the sidecar keeps."""
    return np.concatenate([np.atleast_1d(getattr(look, field.name)) for field in fields(look)]).astype(float)


def look_from_values(values: Float[np.ndarray, "values"]) -> Look:
    """The look whose numbers `look_values` gave."""
    sizes = {"sun_strength": 1, "ambient": 1, "haze": 1}
    numbers, start = {}, 0
    for field in fields(Look):
        size = sizes.get(field.name, 3)
        part = values[start : start + size]
        numbers[field.name] = float(part[0]) if size == 1 else part
        start += size
    if start != len(values):
        raise ValueError(f"a look has {start} numbers, not {len(values)}")
    return Look(**numbers)
