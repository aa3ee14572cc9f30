"""MotionClips, the drawing: a small synthetic video data set.

Twelve classes in six pairs. The two classes of a pair are the same kind of scene played forwards
and backwards, so their frames, taken as a set, have one distribution: a network that averages
scores of single frames is at chance within every pair, and only the order of frames tells.

Units in this module: positions, radii and lengths are fractions of the frame's side (x to the
right, y down), angles are radians (growing clockwise on screen), colors are RGB in [0, 1].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.errors import DataError

MOTION_PAIRS: tuple[tuple[str, str], ...] = (
    ("moves_left", "moves_right"),
    ("moves_up", "moves_down"),
    ("approaches", "recedes"),
    ("turns_clockwise", "turns_anticlockwise"),
    ("appears", "vanishes"),
    ("meets", "parts"),
)
MOTION_CLASSES: tuple[str, ...] = tuple(name for pair in MOTION_PAIRS for name in pair)

# Raise it when the drawing changes, so that folders written before are told apart.
DRAWING_VERSION = 1

Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """What scenes are made of; two styles share no shape, texture, background or hue."""

    shapes: tuple[str, ...]
    oriented: tuple[str, ...]  # for turning: shapes that look alike only after half a turn or more
    textures: tuple[str, ...]
    backgrounds: tuple[str, ...]
    hues: tuple[Range, ...]  # within [0, 1)


STYLES: dict[str, Style] = {
    "a": Style(
        ("disc", "square", "triangle", "bar"), ("triangle", "bar"), ("stripes", "checks"),
        ("gradient", "clouds"), ((0.00, 0.16), (0.50, 0.66)),
    ),
    "b": Style(
        ("ring", "cross", "ellipse", "corner"), ("ellipse", "corner"), ("dots", "marble"),
        ("tiles", "waves"), ((0.25, 0.41), (0.75, 0.91)),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Sprite:
    """One textured object and where it is in each of the T frames."""

    shape: str
    texture: str
    colors: np.ndarray  # (2, 3): the texture runs from the first to the second
    waves: np.ndarray  # (4, 3): wave vector x, y (radians per radius) and phase of the texture
    center: np.ndarray  # (T, 2): x, y
    radius: np.ndarray  # (T,)
    angle: np.ndarray  # (T,)
    opacity: np.ndarray  # (T,): 0 to 1


def _box(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # First-order distance to an ellipse of half axes 1.35 and 0.55; the exact one needs a solver.
    inner = np.hypot(x / 1.35, y / 0.55)
    return inner * (inner - 1) / (np.hypot(x / 1.35**2, y / 0.55**2) + 1e-6)


# Signed distance (negative inside) to the outline, in radii, of a shape at the origin; none
# reaches further than REACH radii from it.
REACH = 1.55
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda x, y: np.hypot(x, y) - 1,
    "square": lambda x, y: _box(x, y, 0.88, 0.88),
    "triangle": lambda x, y: np.maximum(0.917 * np.abs(x) - 0.4 * (y + 1.2), y - 0.75),
    "bar": lambda x, y: _box(x, y, 1.35, 0.45),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.33,
    "cross": lambda x, y: np.minimum(_box(x, y, 1.1, 0.4), _box(x, y, 0.4, 1.1)),
    "ellipse": _ellipse,
    "corner": lambda x, y: np.minimum(_box(x + 0.5, y, 0.38, 1.1), _box(x - 0.1, y - 0.72, 0.98, 0.38)),
}


def _texture(name: str, x: np.ndarray, y: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """Mixing weight in [0, 1], shape of x; x, y in radii. Edges are soft to avoid aliasing."""
    (kx, ky, phase), (_, _, other) = waves[:2]
    along, across = kx * x + ky * y + phase, kx * y - ky * x + other
    if name == "stripes":
        value = 1.8 * np.sin(along)
    elif name == "checks":
        value = 2.5 * np.sin(0.8 * along) * np.sin(0.8 * across)
    elif name == "dots":
        value = 1.5 * (np.cos(along) + np.cos(across)) - 1.0
    else:  # marble
        value = sum(np.sin(wx * x + wy * y + shift) for wx, wy, shift in waves)
    return np.clip(0.5 + value, 0, 1)


def _paint(video: np.ndarray, sprite: Sprite) -> None:
    """Blend the sprite into video, float32 (T, S, S, 3) in [0, 1], in place."""
    size = video.shape[1]
    # Only the box that the sprite ever touches is computed; most sprites are small.
    reach = REACH * sprite.radius[:, None] + 1 / size
    low = np.floor((sprite.center - reach).min(axis=0) * size).clip(0, size).astype(int)
    high = np.ceil((sprite.center + reach).max(axis=0) * size).clip(0, size).astype(int)
    if (high <= low).any():
        return
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    cx, cy, radius, angle, opacity = (
        value.astype(np.float32)[:, None, None]
        for value in (*sprite.center.T, sprite.radius, sprite.angle, sprite.opacity)
    )
    dx = (grid[None, None, low[0] : high[0]] - cx) / radius
    dy = (grid[None, low[1] : high[1], None] - cy) / radius
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    # One pixel of ramp across the outline.
    alpha = np.clip(0.5 - SHAPES[sprite.shape](x, y) * (radius * size), 0, 1) * opacity
    weight = _texture(sprite.texture, x, y, sprite.waves.astype(np.float32))
    first, second = sprite.colors.astype(np.float32)
    region = video[:, low[1] : high[1], low[0] : high[0]]
    region += alpha[..., None] * (first + weight[..., None] * (second - first) - region)


def _pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def _color(rng: np.random.Generator, style: Style, saturation: Range, value: Range) -> np.ndarray:
    """A random RGB color (3,) with a hue of the style (HSV to RGB in closed form)."""
    hue = rng.uniform(*_pick(rng, style.hues))
    sat, val = rng.uniform(*saturation), rng.uniform(*value)
    ramp = np.abs((6 * hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return val * (1 - sat * (1 - np.clip(ramp, 0, 1)))


def _background(rng: np.random.Generator, style: Style, size: int, side: int) -> np.ndarray:
    """A still texture, float32 (side, side, 3), for frames of size pixels."""
    name = _pick(rng, style.backgrounds)
    at = np.arange(side) / size - 0.5
    turn, phase = rng.uniform(0, 2 * math.pi, 2)
    along = at * math.cos(turn) + at[:, None] * math.sin(turn)
    across = at[:, None] * math.cos(turn) - at * math.sin(turn)
    wave = 2 * math.pi * rng.uniform(1.5, 3)
    # Every background gets some blotches: without them a gradient would hardly show the jitter.
    cells = int(rng.integers(4, 8))
    knots = rng.uniform(-0.5, 0.5, (cells + 1, cells + 1))
    whole, part = np.divmod(np.linspace(0, cells, side, endpoint=False), 1)
    left, part = whole.astype(int), part * part * (3 - 2 * part)
    rows = knots[left] * (1 - part[:, None]) + knots[left + 1] * part[:, None]
    blotches = rows[:, left] * (1 - part) + rows[:, left + 1] * part
    mix = {
        "gradient": 0.7 * along + 0.5 * blotches,
        "clouds": blotches,
        "tiles": 2 * np.sin(wave * along + phase) * np.sin(wave * across) + 0.3 * blotches,
        "waves": 0.4 * np.sin(wave * along + phase + 2.5 * blotches),
    }[name]
    # Mid-gray levels, so that the light and dark labeled objects stand out from all of it.
    first = _color(rng, style, (0.1, 0.4), (0.32, 0.45))
    second = _color(rng, style, (0.1, 0.4), (0.47, 0.60))
    mixed = first + np.clip(0.5 + mix, 0, 1)[..., None] * (second - first)
    return mixed.astype(np.float32)


def _jittered(rng: np.random.Generator, style: Style, frames: int, size: int) -> np.ndarray:
    """The background under a shaking camera, float32 (T, S, S, 3)."""
    # Shakes are independent from frame to frame: they look the same played backwards.
    limit = 1.5 * size / 64
    margin = math.ceil(limit) + 1
    still = _background(rng, style, size, size + 2 * margin)
    video = np.empty((frames, size, size, 3), np.float32)
    for frame in video:
        down, right = margin + rng.uniform(-limit, limit, 2)
        top, left = int(down), int(right)
        low, near = np.float32(down - top), np.float32(right - left)
        rows = still[top : top + size + 1, left : left + size + 1]
        rows = rows[:-1] + low * (rows[1:] - rows[:-1])
        frame[:] = rows[:, :-1] + near * (rows[:, 1:] - rows[:, :-1])
    return video


def _sprite(rng: np.random.Generator, style: Style, shapes: Sequence[str], frames: int, bold: bool) -> Sprite:
    """A still object in the middle; bold ones carry the label, the others are distractors."""
    light, dark = ((0.85, 1.0), (0.03, 0.2)) if bold else ((0.55, 0.7), (0.3, 0.45))
    saturation = (0.3, 0.8) if bold else (0.2, 0.5)
    period = rng.uniform(0.7, 1.1, 4)  # of the texture, in radii
    turn, phase = rng.uniform(0, 2 * math.pi, (2, 4))
    wave_number = 2 * math.pi / period
    return Sprite(
        shape=_pick(rng, shapes),
        texture=_pick(rng, style.textures),
        colors=np.stack([_color(rng, style, saturation, each) for each in (light, dark)]),
        waves=np.stack([wave_number * np.cos(turn), wave_number * np.sin(turn), phase], axis=1),
        center=np.full((frames, 2), 0.5),
        radius=np.full(frames, 0.15),
        angle=np.full(frames, rng.uniform(0, 2 * math.pi)),
        opacity=np.ones(frames),
    )


def _distractor(rng: np.random.Generator, style: Style, time: np.ndarray) -> Sprite:
    """A small dull object that wiggles around a random place."""
    # A sine of random phase has no direction of time, nor has its frequency or amplitude.
    swing, rock = np.sin(2 * math.pi * (rng.uniform(0.5, 1.5, (2, 1)) * time + rng.uniform(0, 1, (2, 1))))
    turn = rng.uniform(0, 2 * math.pi)
    step = rng.uniform(0, 0.06) * np.array([math.cos(turn), math.sin(turn)])
    sprite = _sprite(rng, style, style.shapes, len(time), bold=False)
    return replace(
        sprite,
        center=rng.uniform(0.08, 0.92, 2) + swing[:, None] * step,
        radius=np.full(len(time), rng.uniform(0.045, 0.075)),
        angle=sprite.angle + rng.uniform(0, 0.5) * rock,
    )


def _actors(rng: np.random.Generator, style: Style, time: np.ndarray, label: str) -> list[Sprite]:
    """The labeled object or objects, for the first class of a pair; time (T,) runs from 0 to 1."""
    frames = len(time)
    # Starts and stops softly, or the reverse of it, alike at both ends of the clip.
    done = time + rng.uniform(-0.6, 0.6) * np.sin(2 * math.pi * time) / (2 * math.pi)
    half = done[:, None] - 0.5
    shapes = style.oriented if label == "turns_clockwise" else style.shapes
    actor = _sprite(rng, style, shapes, frames, bold=True)
    actor = replace(actor, radius=np.full(frames, rng.uniform(0.14, 0.19)))
    turn = rng.uniform(0, 2 * math.pi)
    heading = np.array([math.cos(turn), math.sin(turn)])
    place = rng.uniform(0.32, 0.68, 2)
    drift = rng.uniform(0.02, 0.08) * heading

    if label in ("moves_left", "moves_up"):
        step = np.array([-rng.uniform(0.45, 0.70), rng.uniform(-0.08, 0.08)])
        middle = np.array([rng.uniform(0.45, 0.55), rng.uniform(0.25, 0.75)])
        path = middle + half * step
        return [replace(actor, center=path if label == "moves_left" else path[:, ::-1])]
    if label == "approaches":
        # A constant ratio per unit of time is what a steady approach looks like, nearly.
        near = rng.uniform(0.21, 0.27)
        far = near / rng.uniform(2.2, 3.0)
        return [replace(actor, center=place + half * drift, radius=far * (near / far) ** done)]
    if label == "turns_clockwise":
        # Like the hand of a clock: around a place near the middle, the object turning as it goes. At
        # most 35 degrees between 8 frames spread over the clip, 70 where frames are drawn at random.
        angle = actor.angle + math.radians(rng.uniform(120, 240)) * time
        arm = rng.uniform(0.20, 0.26) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return [replace(actor, center=rng.uniform(0.45, 0.55, 2) + arm, angle=angle)]
    if label == "appears":
        return [replace(actor, center=place + half * drift, opacity=done)]
    if label == "meets":
        other = _sprite(rng, style, style.shapes, frames, bold=True)
        radii = rng.uniform(0.10, 0.14, 2)
        touching = radii.sum() * rng.uniform(0.9, 1.05)
        gap = touching + (1 - done[:, None]) * rng.uniform(0.38, 0.48)
        middle, share = rng.uniform(0.45, 0.55, 2), rng.uniform(0.4, 0.6)
        ahead, behind = middle + share * gap * heading, middle - (1 - share) * gap * heading
        return [
            replace(actor, center=ahead, radius=np.full(frames, radii[0])),
            replace(other, center=behind, radius=np.full(frames, radii[1])),
        ]
    raise KeyError(label)


def require(true: object, message: str) -> None:
    """Raise DataError with this message unless ``true``."""
    if not true:
        raise DataError(message)


def check_scene(label: str, frames: int, size: int, style: str, seed: int) -> None:
    """Raise DataError unless render_clip can draw this."""
    require(label in MOTION_CLASSES, f"Unknown class {label!r}; known are {', '.join(MOTION_CLASSES)}.")
    require(style in STYLES, f"Unknown style {style!r}; known are {', '.join(STYLES)}.")
    require(frames >= 2, f"frames={frames}: a clip needs at least 2 frames.")
    require(size >= 16, f"size={size}: frames need a side of at least 16 pixels.")
    require(seed >= 0, f"seed={seed}: a seed must be 0 or more.")


def render_clip(label: str, seed: int, *, frames: int = 24, size: int = 64, style: str = "a") -> np.ndarray:
    """Draw one clip: uint8 RGB of shape (frames, size, size, 3), the same for the same arguments.

    label is one of MOTION_CLASSES, seed (0 or more) picks the scene, size is the frame's side in
    pixels. The clip of a pair's second class is that of its first class, same seed, reversed.
    """
    check_scene(label, frames, size, style, seed)
    pair = next(pair for pair in MOTION_PAIRS if label in pair)
    looks = STYLES[style]
    key = [seed, MOTION_PAIRS.index(pair), list(STYLES).index(style)]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))

    time = np.linspace(0, 1, frames)
    video = _jittered(rng, looks, frames, size)
    # Distractors lie behind: they must not hide what the label is about.
    for _ in range(rng.integers(1, 4)):
        _paint(video, _distractor(rng, looks, time))
    for actor in _actors(rng, looks, time, pair[0]):
        _paint(video, actor)
    # Flicker and pixel noise, independent from frame to frame.
    video *= rng.normal(1, 0.025, (frames, 1, 1, 1)).astype(np.float32)
    video += rng.normal(0, 1, video.shape[:3]).astype(np.float32)[..., None] * (1.5 / 255)
    clip = np.clip(video * 255 + 0.5, 0, 255).astype(np.uint8)
    return clip if label == pair[0] else np.ascontiguousarray(clip[::-1])
