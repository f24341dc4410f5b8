"""Draw a planned video: a table seen from above, a coloured object, and the hand that moves it.

Inside a clip a frame depends on the pose alone, and poses run the same way forwards and backwards;
nothing else changes (no camera motion, no fading light), so the frames do not carry their order.
Letters: N frames, M distinct pictures, S height and width in pixels.
Lengths and positions are fractions of the frame, y pointing down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from egovl.data.prepare.configs import FRAMES_PER_SEC
from egovl.data.prepare.synthetic_plan import SHAPES, VideoPlan

RGB = np.array(
    [
        (0.86, 0.13, 0.13),
        (0.12, 0.68, 0.20),
        (0.14, 0.28, 0.90),
        (0.93, 0.84, 0.10),
        (0.62, 0.14, 0.78),
        (0.96, 0.96, 0.96),
    ],
    dtype=np.float32,
)  # in the order of COLOURS
SKIN = np.array(
    [(0.93, 0.74, 0.62), (0.80, 0.58, 0.44), (0.58, 0.39, 0.27), (0.38, 0.25, 0.18)], np.float32
)
INSIDE = np.array((0.06, 0.05, 0.05), np.float32)

CORNERS = ((0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9))
NEAR_SCALE = 1.45
HAND_RADIUS = 0.075
ARM_RADIUS = 0.045
HOLD_SEC = 0.07  # around a clip in which nothing moves, so that its borders tell nothing
NUM_PLACES = 6
PICTURES_PER_BLOCK = 32  # a block's pixels stay in the processor's cache


@dataclass(frozen=True, eq=False)
class Look:
    """What is drawn at random once per video."""

    home: np.ndarray  # [2] neutral place of the object
    reach: np.ndarray  # [2] how far right and how far up an extreme pose is
    radius: float
    grips: np.ndarray  # [actions, 2] hand relative to the object, in radii
    elbow: float  # where on the bottom edge the arm comes in
    skin: np.ndarray  # [3]
    sleeve: np.ndarray  # [3]
    background: np.ndarray  # [S, S, 3] float32, table and things never touched


@dataclass(frozen=True, eq=False)
class Motion:
    """The moving things over time, N rows each."""

    centre: np.ndarray  # [N, 2]
    radius: np.ndarray  # [N]
    openness: np.ndarray  # [N] 0 closed .. 1 open
    hand: np.ndarray  # [N, 2]


def render_video(plan: VideoPlan, size: int) -> np.ndarray:
    """Draw all frames of `plan`: uint8 [N, size, size, 3], RGB."""
    look = _sample_look(plan, size, np.random.default_rng((*plan.key, 1)))
    motion = _animate(plan, look)
    frames = np.empty((plan.num_frames, size, size, 3), np.uint8)
    for start in range(0, plan.num_frames, PICTURES_PER_BLOCK):
        block = np.arange(start, min(start + PICTURES_PER_BLOCK, plan.num_frames))
        frames[block] = _draw(plan, look, motion, block)
    return frames


def _sample_look(plan: VideoPlan, size: int, rng: np.random.Generator) -> Look:
    angle = rng.uniform(np.pi / 6, np.pi * 5 / 6, len(plan.actions))
    grips = 1.05 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Look(
        home=rng.uniform((0.46, 0.45), (0.54, 0.52)),
        reach=rng.uniform(0.22, 0.28, 2),
        radius=float(rng.uniform(0.14, 0.175)),
        grips=grips,
        elbow=float(rng.uniform(0.3, 0.7)),
        skin=SKIN[rng.integers(len(SKIN))],
        sleeve=rng.uniform(0.15, 0.5, 3).astype(np.float32),
        background=_draw_place(size, int(rng.integers(NUM_PLACES))),
    )


def _animate(plan: VideoPlan, look: Look) -> Motion:
    """Poses of every frame: a clip's motion, then the move to where the next clip begins."""
    times_sec = (np.arange(plan.num_frames) + 0.5) / FRAMES_PER_SEC
    keys_sec: list[float] = []
    poses: list[np.ndarray] = []
    for action, grip in zip(plan.actions, look.grips, strict=True):
        start, end = action.start_sec, action.end_sec
        keys_sec += [start - HOLD_SEC, start, end, end + HOLD_SEC]
        first, last = (np.concatenate([p, grip]) for p in (action.first_pose, action.last_pose))
        poses += [first, first, last, last]
    right, high, opened, near, grip_x, grip_y = _interpolate(times_sec, keys_sec, np.stack(poses)).T
    centre = np.stack(
        [look.home[0] + right * look.reach[0], look.home[1] - high * look.reach[1]], axis=1
    )
    radius = look.radius * NEAR_SCALE**near
    grip = np.stack([grip_x, grip_y], axis=1)
    return Motion(centre, radius, 0.5 + 0.5 * opened, centre + radius[:, None] * grip)


def _interpolate(times_sec: np.ndarray, keys_sec: list[float], values: np.ndarray) -> np.ndarray:
    columns = [np.interp(times_sec, keys_sec, column) for column in values.T]
    return np.stack(columns, axis=1)


def _draw(plan: VideoPlan, look: Look, motion: Motion, frames: np.ndarray) -> np.ndarray:
    image = np.repeat(look.background[None], len(frames), axis=0)
    image = _draw_object(
        image, plan.noun, motion.centre[frames], motion.radius[frames], motion.openness[frames]
    )
    return (_draw_hand(image, look, motion.hand[frames]) * 255 + 0.5).astype(np.uint8)


def _draw_object(
    image: np.ndarray, noun: int, centre: np.ndarray, radius: np.ndarray, openness: np.ndarray
) -> np.ndarray:
    """Paint one object with its opening onto `image` [M, S, S, 3]; others are [M, 2], [M], [M]."""
    x, y = _offsets(image.shape[1], centre)
    scale = radius.astype(np.float32)[:, None, None]
    shape, colour = SHAPES[noun % len(SHAPES)], RGB[noun // len(SHAPES)]
    image = _paint(image, _shape_distance(shape, x / scale, y / scale) * scale, colour)
    hole = 0.6 * scale * openness.astype(np.float32)[:, None, None] - 0.5 / image.shape[1]
    return _paint(image, np.hypot(x, y) - hole, INSIDE)


def _shape_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance, negative inside, to a shape of about unit radius."""
    if shape == "box":
        return np.maximum(np.abs(x), np.abs(y)) - 0.9
    if shape == "pot":
        return np.hypot(x, y) - 1.0
    if shape == "bag":
        return np.maximum(y - 0.8, 0.862 * np.abs(x) - 0.507 * (y + 1.25))
    return np.maximum(np.abs(x) - 1.4, np.abs(y) - 0.6)


def _draw_hand(image: np.ndarray, look: Look, hand: np.ndarray) -> np.ndarray:
    x, y = _offsets(image.shape[1], hand)
    arm = np.stack([look.elbow - hand[:, 0], 1.2 - hand[:, 1]], axis=1).astype(np.float32)
    arm_x, arm_y = arm[:, 0, None, None], arm[:, 1, None, None]
    along = np.clip((x * arm_x + y * arm_y) / (arm_x**2 + arm_y**2), 0, 1)
    sleeve = np.hypot(x - along * arm_x, y - along * arm_y) - ARM_RADIUS
    image = _paint(image, sleeve, look.sleeve)
    return _paint(image, np.hypot(x, y) - HAND_RADIUS, look.skin)


def _offsets(size: int, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel positions relative to `centre` [M, 2]: x [M, 1, S] and y [M, S, 1]."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    point = centre.astype(np.float32)
    return grid[None, None, :] - point[:, 0, None, None], grid[None, :, None] - point[
        :, 1, None, None
    ]


def _paint(image: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Cover `image` where `distance` (in frame fractions) is negative, edges one pixel soft."""
    cover = np.clip(0.5 - distance * image.shape[1], 0, 1)[..., None]
    return image + cover * (colour - image)


def _draw_place(size: int, number: int) -> np.ndarray:
    """One of few tables [S, S, 3]: were every video's its own, it would give the object away."""
    rng = np.random.default_rng((number, 2))
    return _draw_clutter(_draw_table(size, rng), rng)


def _draw_clutter(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Leave up to three dull things in the corners of `table` [S, S, 3]; no hand touches them."""
    image = table[None]
    corners = rng.permutation(np.array(CORNERS)) + rng.uniform(-0.03, 0.03, (len(CORNERS), 2))
    for corner in corners[: rng.integers(0, len(CORNERS))]:
        x, y = _offsets(table.shape[0], corner[None])
        radius = rng.uniform(0.06, 0.1)
        shape = SHAPES[rng.integers(len(SHAPES))]
        tone = rng.uniform(0.1, 0.8) + rng.uniform(-0.06, 0.06, 3)
        colour = np.clip(tone, 0, 1).astype(np.float32)
        image = _paint(image, _shape_distance(shape, x / radius, y / radius) * radius, colour)
    return image[0].astype(np.float32)


def _draw_table(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a dull background [S, S, 3]: two tones, soft blotches, and planks half of the time."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    tones = 0.42 + rng.uniform(-0.14, 0.14, (2, 1)) + rng.uniform(-0.06, 0.06, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    slope = grid[None, :] * np.cos(angle) + grid[:, None] * np.sin(angle)
    share = (slope - slope.min()) / (slope.max() - slope.min())
    table = tones[0] + share[..., None] * (tones[1] - tones[0])
    knots = np.linspace(0, 1, 6)
    blotches = _interpolate(grid, knots.tolist(), rng.normal(0, 0.05, (6, 6)))
    table += _interpolate(grid, knots.tolist(), blotches.T)[..., None]
    if rng.random() < 0.5:
        plank = np.floor(grid * rng.integers(3, 8) + rng.uniform()) % 2
        stripes = plank[:, None] if rng.random() < 0.5 else plank[None, :]
        table += 0.06 * stripes[..., None]
    return np.clip(table, 0.05, 0.8).astype(np.float32)
