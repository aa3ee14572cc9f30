"""Render the clips of MotionClips, a small synthetic video data set.

It has twelve classes in six pairs. The two classes of a pair show the same kind of scene, played forwards and
backwards. The sets of their frames have the same distribution, so a network that averages scores of single frames is at
chance within every pair: only the order of frames distinguishes its classes.

Units: positions, radii and lengths are fractions of the frame's side (x to the right, y down), angles are in radians
(clockwise on screen), colors are RGB in [0, 1].
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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

# Increment it when the rendering changes. It is stored in written folders, so that older ones are recognized.
DRAWING_VERSION = 1

Range = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """Elements of scenes; two styles have no shape, texture, background or hue in common."""

    shapes: tuple[str, ...]
    oriented: tuple[str, ...]  # shapes whose rotation is visible: they repeat after half a turn at the earliest
    textures: tuple[str, ...]
    backgrounds: tuple[str, ...]
    hues: tuple[Range, ...]  # ranges within [0, 1)


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
    """One textured object, with its position and appearance in each of the T frames."""

    shape: str
    texture: str
    colors: np.ndarray  # (2, 3): the two colors that the texture mixes
    waves: np.ndarray  # (4, 3): waves of the texture: wave vector x, y (radians per radius) and phase
    center: np.ndarray  # (T, 2): x, y
    radius: np.ndarray  # (T,)
    angle: np.ndarray  # (T,)
    opacity: np.ndarray  # (T,): 0 to 1


def _box(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # First-order distance to an ellipse with semi-axes 1.35 and 0.55; the exact distance would need a solver.
    scaled = np.hypot(x / 1.35, y / 0.55)
    return scaled * (scaled - 1) / (np.hypot(x / 1.35**2, y / 0.55**2) + 1e-6)


# Signed distance in radii (negative inside) to the edge of a shape at the origin. No shape extends beyond REACH radii.
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
    """Return mixing weights in [0, 1] for positions x, y in radii; edges are soft to avoid aliasing."""
    (kx, ky, phase), (_, _, second_phase) = waves[:2]
    along, across = kx * x + ky * y + phase, kx * y - ky * x + second_phase
    if name == "stripes":
        value = 1.8 * np.sin(along)
    elif name == "checks":
        value = 2.5 * np.sin(0.8 * along) * np.sin(0.8 * across)
    elif name == "dots":
        value = 1.5 * (np.cos(along) + np.cos(across)) - 1.0
    else:  # marble
        value = sum(np.sin(wx * x + wy * y + shift) for wx, wy, shift in waves)
    return np.clip(0.5 + value, 0, 1)


class _Coverage(NamedTuple):
    """The pixels of a sprite's bounding box over all frames.

    rows, columns: the bounding box.
    alpha: coverage of its pixels from 0 to 1, ``(T, h, w)``, without the opacity of the sprite.
    x, y: positions of its pixels relative to the sprite, in radii.
    """

    rows: slice
    columns: slice
    alpha: np.ndarray
    x: np.ndarray
    y: np.ndarray


def _cover(sprite: Sprite, size: int) -> _Coverage | None:
    """Compute which pixels of frames of ``size`` pixels a sprite covers; None if it is outside of all frames."""
    # Only the bounding box of the sprite over all frames is computed, as most sprites are small.
    reach = REACH * sprite.radius[:, None] + 1 / size
    low = np.floor((sprite.center - reach).min(axis=0) * size).clip(0, size).astype(int)
    high = np.ceil((sprite.center + reach).max(axis=0) * size).clip(0, size).astype(int)
    if (high <= low).any():
        return None
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    cx, cy, radius, angle = (
        value.astype(np.float32)[:, None, None] for value in (*sprite.center.T, sprite.radius, sprite.angle)
    )
    dx = (grid[None, None, low[0] : high[0]] - cx) / radius
    dy = (grid[None, low[1] : high[1], None] - cy) / radius
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    # The edge is a ramp of one pixel.
    alpha = np.clip(0.5 - SHAPES[sprite.shape](x, y) * (radius * size), 0, 1)
    return _Coverage(slice(low[1], high[1]), slice(low[0], high[0]), alpha, x, y)


def _paint(video: np.ndarray, sprite: Sprite) -> None:
    """Blend a sprite into a video, float32 (T, S, S, 3) in [0, 1], in place."""
    coverage = _cover(sprite, video.shape[1])
    if coverage is None:
        return
    alpha = coverage.alpha * sprite.opacity.astype(np.float32)[:, None, None]
    weight = _texture(sprite.texture, coverage.x, coverage.y, sprite.waves.astype(np.float32))
    first, second = sprite.colors.astype(np.float32)
    region = video[:, coverage.rows, coverage.columns]
    region += alpha[..., None] * (first + weight[..., None] * (second - first) - region)


def _pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def _color(rng: np.random.Generator, style: Style, saturation: Range, value: Range) -> np.ndarray:
    """Draw an RGB color (3,) with a hue of the style, converted from HSV in closed form."""
    hue = rng.uniform(*_pick(rng, style.hues))
    sat, val = rng.uniform(*saturation), rng.uniform(*value)
    ramp = np.abs((6 * hue + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return val * (1 - sat * (1 - np.clip(ramp, 0, 1)))


def _background(rng: np.random.Generator, style: Style, size: int, side: int) -> np.ndarray:
    """Draw a still background, float32 (side, side, 3), for frames of ``size`` pixels."""
    name = _pick(rng, style.backgrounds)
    coordinates = np.arange(side) / size - 0.5
    turn, phase = rng.uniform(0, 2 * math.pi, 2)
    along = coordinates * math.cos(turn) + coordinates[:, None] * math.sin(turn)
    across = coordinates[:, None] * math.cos(turn) - coordinates * math.sin(turn)
    wave = 2 * math.pi * rng.uniform(1.5, 3)
    # Every background has some blotches (value noise). Without them, the shaking of a gradient would hardly be visible.
    cells = int(rng.integers(4, 8))
    knots = rng.uniform(-0.5, 0.5, (cells + 1, cells + 1))
    cell, offset = np.divmod(np.linspace(0, cells, side, endpoint=False), 1)
    left, weight = cell.astype(int), offset * offset * (3 - 2 * offset)
    rows = knots[left] * (1 - weight[:, None]) + knots[left + 1] * weight[:, None]
    blotches = rows[:, left] * (1 - weight) + rows[:, left + 1] * weight
    mix = {
        "gradient": 0.7 * along + 0.5 * blotches,
        "clouds": blotches,
        "tiles": 2 * np.sin(wave * along + phase) * np.sin(wave * across) + 0.3 * blotches,
        "waves": 0.4 * np.sin(wave * along + phase + 2.5 * blotches),
    }[name]
    # Medium brightness, so that the light and dark labeled objects stand out.
    first = _color(rng, style, (0.1, 0.4), (0.32, 0.45))
    second = _color(rng, style, (0.1, 0.4), (0.47, 0.60))
    mixed = first + np.clip(0.5 + mix, 0, 1)[..., None] * (second - first)
    return mixed.astype(np.float32)


def _shaking_background(rng: np.random.Generator, style: Style, frames: int, size: int) -> np.ndarray:
    """Draw a background seen by a shaking camera, float32 (T, S, S, 3)."""
    # The shifts of frames are independent, so they have the same distribution when played backwards.
    limit = 1.5 * size / 64
    margin = math.ceil(limit) + 1
    still = _background(rng, style, size, size + 2 * margin)
    video = np.empty((frames, size, size, 3), np.float32)
    for frame in video:
        down, right = margin + rng.uniform(-limit, limit, 2)
        top, left = int(down), int(right)
        row_weight, column_weight = np.float32(down - top), np.float32(right - left)
        rows = still[top : top + size + 1, left : left + size + 1]
        rows = rows[:-1] + row_weight * (rows[1:] - rows[:-1])
        frame[:] = rows[:, :-1] + column_weight * (rows[:, 1:] - rows[:, :-1])
    return video


def _sprite(rng: np.random.Generator, style: Style, shapes: Sequence[str], frames: int, bold: bool) -> Sprite:
    """Draw a still object in the middle of the frame; bold objects show the label, others are distractors."""
    light, dark = ((0.85, 1.0), (0.03, 0.2)) if bold else ((0.55, 0.7), (0.3, 0.45))
    saturation = (0.3, 0.8) if bold else (0.2, 0.5)
    period = rng.uniform(0.7, 1.1, 4)  # of the waves of the texture, in radii
    turn, phase = rng.uniform(0, 2 * math.pi, (2, 4))
    wave_number = 2 * math.pi / period
    return Sprite(
        shape=_pick(rng, shapes),
        texture=_pick(rng, style.textures),
        colors=np.stack([_color(rng, style, saturation, value) for value in (light, dark)]),
        waves=np.stack([wave_number * np.cos(turn), wave_number * np.sin(turn), phase], axis=1),
        center=np.full((frames, 2), 0.5),
        radius=np.full(frames, 0.15),
        angle=np.full(frames, rng.uniform(0, 2 * math.pi)),
        opacity=np.ones(frames),
    )


def _distractor(rng: np.random.Generator, style: Style, time: np.ndarray) -> Sprite:
    """Draw a small object of low contrast that oscillates around a random position."""
    # A sine of random phase, frequency and amplitude has no direction of time.
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
    """Draw the objects that show the label, for the first class of a pair; time (T,) runs from 0 to 1."""
    frames = len(time)
    # Motion is slower, or faster, at both ends of the clip, symmetrically.
    progress = time + rng.uniform(-0.6, 0.6) * np.sin(2 * math.pi * time) / (2 * math.pi)
    centered = progress[:, None] - 0.5
    shapes = style.oriented if label == "turns_clockwise" else style.shapes
    actor = _sprite(rng, style, shapes, frames, bold=True)
    actor = replace(actor, radius=np.full(frames, rng.uniform(0.14, 0.19)))
    turn = rng.uniform(0, 2 * math.pi)
    heading = np.array([math.cos(turn), math.sin(turn)])
    position = rng.uniform(0.32, 0.68, 2)
    drift = rng.uniform(0.02, 0.08) * heading

    if label in ("moves_left", "moves_up"):
        step = np.array([-rng.uniform(0.45, 0.70), rng.uniform(-0.08, 0.08)])
        middle = np.array([rng.uniform(0.45, 0.55), rng.uniform(0.25, 0.75)])
        path = middle + centered * step
        return [replace(actor, center=path if label == "moves_left" else path[:, ::-1])]
    if label == "approaches":
        # Size grows by a constant ratio per unit of time, which is nearly what a steady approach looks like.
        near = rng.uniform(0.21, 0.27)
        far = near / rng.uniform(2.2, 3.0)
        return [replace(actor, center=position + centered * drift, radius=far * (near / far) ** progress)]
    if label == "turns_clockwise":
        # Like the hand of a clock, the object circles a point near the middle and turns with its motion, at most 35
        # degrees between two of 8 evenly spaced frames of the clip, and 70 degrees between randomly drawn ones.
        angle = actor.angle + math.radians(rng.uniform(120, 240)) * time
        arm = rng.uniform(0.20, 0.26) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return [replace(actor, center=rng.uniform(0.45, 0.55, 2) + arm, angle=angle)]
    if label == "appears":
        return [replace(actor, center=position + centered * drift, opacity=progress)]
    if label == "meets":
        other = _sprite(rng, style, style.shapes, frames, bold=True)
        radii = rng.uniform(0.10, 0.14, 2)
        touching = radii.sum() * rng.uniform(0.9, 1.05)
        gap = touching + (1 - progress[:, None]) * rng.uniform(0.38, 0.48)
        middle, share = rng.uniform(0.45, 0.55, 2), rng.uniform(0.4, 0.6)
        ahead, behind = middle + share * gap * heading, middle - (1 - share) * gap * heading
        return [
            replace(actor, center=ahead, radius=np.full(frames, radii[0])),
            replace(other, center=behind, radius=np.full(frames, radii[1])),
        ]
    raise KeyError(label)


def require(condition: object, message: str) -> None:
    """Raise DataError with this message unless the condition is true."""
    if not condition:
        raise DataError(message)


def check_scene(label: str, frames: int, size: int, style: str, seed: int) -> None:
    """Raise DataError if ``render_clip`` does not accept these arguments."""
    require(label in MOTION_CLASSES, f"Unknown class {label!r}; choose from {', '.join(MOTION_CLASSES)}.")
    require(style in STYLES, f"Unknown style {style!r}; choose from {', '.join(STYLES)}.")
    require(frames >= 2, f"frames={frames}: a clip needs at least 2 frames.")
    require(size >= 16, f"size={size}: frames must be at least 16 pixels wide.")
    require(seed >= 0, f"seed={seed}: a seed must not be negative.")


def render_clip(label: str, seed: int, *, frames: int = 24, size: int = 64, style: str = "a") -> np.ndarray:
    """Render one clip, uint8 RGB ``(frames, size, size, 3)``; equal arguments give equal clips.

    The clip of the second class of a pair is that of the first class with the same seed, reversed.

    Args:
        label: one of ``MOTION_CLASSES``.
        seed: number of the scene, not negative.
        size: side of the frames in pixels.
        style: one of ``STYLES``.

    Raises:
        DataError: an argument has an invalid value.
    """
    check_scene(label, frames, size, style, seed)
    pair, rng = _scene(label, seed, style)
    video, actors = _draw(pair, rng, frames, size, STYLES[style])
    for actor in actors:
        _paint(video, actor)
    clip = finish_frames(video, rng)
    return clip if label == pair[0] else np.ascontiguousarray(clip[::-1])


def object_mask(label: str, seed: int, *, frames: int = 24, size: int = 64, style: str = "a") -> np.ndarray:
    """Compute the pixels of the labeled objects in the clip of ``render_clip`` with the same arguments.

    Returns:
        bool ``(frames, size, size)``: pixels of which an object covers at least half. Objects that appear or vanish
        count in all frames.

    Raises:
        DataError: an argument has an invalid value.
    """
    check_scene(label, frames, size, style, seed)
    pair, rng = _scene(label, seed, style)
    mask = np.zeros((frames, size, size), bool)
    for actor in _draw(pair, rng, frames, size, STYLES[style])[1]:
        coverage = _cover(actor, size)
        if coverage is not None:
            mask[:, coverage.rows, coverage.columns] |= coverage.alpha >= 0.5
    return mask if label == pair[0] else mask[::-1]


def _scene(label: str, seed: int, style: str) -> tuple[tuple[str, str], np.random.Generator]:
    """Return the pair of a class and the random generator of a scene, which both classes of the pair share."""
    pair = next(pair for pair in MOTION_PAIRS if label in pair)
    key = [seed, MOTION_PAIRS.index(pair), list(STYLES).index(style)]
    return pair, np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _draw(
    pair: tuple[str, str], rng: np.random.Generator, frames: int, size: int, style: Style
) -> tuple[np.ndarray, list[Sprite]]:
    """Draw the background with distractors, float32 (T, S, S, 3), and the labeled objects, which are not painted."""
    video = draw_background(rng, frames, size, style)
    return video, _actors(rng, style, np.linspace(0, 1, frames), pair[0])


def draw_background(rng: np.random.Generator, frames: int, size: int, style: Style, clips: float = 1.0) -> np.ndarray:
    """Draw the background with distractors, float32 (T, S, S, 3); they oscillate as in ``clips`` clips."""
    time = np.linspace(0, clips, frames)
    video = _shaking_background(rng, style, frames, size)
    # Distractors are painted first: they must not hide the labeled objects.
    for _ in range(rng.integers(1, 4)):
        _paint(video, _distractor(rng, style, time))
    return video


def draw_actors(video: np.ndarray, rng: np.random.Generator, style: Style, time: np.ndarray, label: str) -> None:
    """Paint the objects of the first class of a pair in place; ``time`` (T,) is the progress of their motion."""
    for actor in _actors(rng, style, time, label):
        _paint(video, actor)


def finish_frames(video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add flicker and pixel noise, independent in every frame; float32 (T, S, S, 3) in [0, 1] -> uint8."""
    video *= rng.normal(1, 0.025, (len(video), 1, 1, 1)).astype(np.float32)
    video += rng.normal(0, 1, video.shape[:3]).astype(np.float32)[..., None] * (1.5 / 255)
    return np.clip(video * 255 + 0.5, 0, 255).astype(np.uint8)
