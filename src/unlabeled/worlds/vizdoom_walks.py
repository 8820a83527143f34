"""ViZDoom trajectories: a walker in a level of Doom, recorded with its poses and the depth of every pixel.

Needs the package `vizdoom`, which contains the engine and free levels; no window opens. Of each frame of 320x240 pixels
only the middle square is recorded, a field of view of about 74 degrees across. Depths come in steps of 0.22 m and
end at 57 m. A metre is 32 units of the map. The walker wanders: it turns towards the side where there is more room when
something is near.
"""

import math
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.files import atomic

__all__ = ["record"]

WIDTH, HEIGHT = 320, 240
UNITS = 32.0
"""Units of the map in a metre; a grown-up is 56 units high."""
TICS = 4
NEAR = 90.0
"""Units in front of which the walker turns away."""
TRIES = 20
SCENARIOS = (
    *("basic", "deadly_corridor", "deathmatch", "defend_the_center", "defend_the_line", "health_gathering"),
    *("health_gathering_supreme", "my_way_home", "predict_position", "rocket_basic", "simpler_basic"),
    "take_cover",
)
"""Levels of ViZDoom that were tested; on some others the engine crashes, or asks for files of its own."""


def record(
    out: str | os.PathLike[str],
    trajectories: int,
    steps: int,
    seed: int,
    *,
    scenario: str = "my_way_home",
    size: int = 48,
) -> list[Path]:
    """Record trajectories as .npz files that `unlabeled.data.trajectories` opens.

    Each holds `video` uint8 (steps, size, size, 3), `pose` float32 (steps, 3), `depth` float16 (steps, size, size) in
    metres along the line of sight, and `action` float32 (steps, 2): metres moved and radians turned to the left until
    the next frame.

    Args:
        out: Folder of the files, made where it is missing; it must hold no trajectories yet.
        trajectories: How many.
        steps: Frames in each trajectory; 8.75 frames are one second of the game.
        seed: Seed of the starting points and the routes; no two seeds share a trajectory.
        scenario: Name of a level that comes with ViZDoom, such as my_way_home or health_gathering.
        size: Height and width in pixels, at most 240.

    Returns:
        The files.

    Raises:
        ValueError: ViZDoom is not installed, a value or the level is wrong, or the folder holds trajectories.
    """
    check.whole(trajectories=trajectories, steps=steps, seed=seed, size=size)
    check.at_least(1, trajectories=trajectories, steps=steps, size=size)
    if size > HEIGHT:
        raise UserError(f"size must be at most {HEIGHT}, got {size}")
    check.choice(SCENARIOS, scenario=scenario)
    folder, files = Path(out).resolve(), []
    if any(folder.glob("*.npz")):
        raise UserError(f"out must be a folder without .npz files, which would be mixed in, got {out}")
    with _game(scenario) as game:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(trajectories):
            trajectory = _walk(game, steps, size, f"{seed} {number}")
            files.append(folder / f"{number:04d}.npz")
            with atomic(files[-1]) as temporary, open(temporary, "wb") as stream:
                np.savez_compressed(stream, **trajectory)
    return files


@contextmanager
def _game(scenario: str) -> Iterator[Any]:
    """A running game without a window; it litters only a folder that is removed."""
    try:
        import vizdoom
    except ImportError as error:
        raise UserError(
            "recording needs ViZDoom, which is not installed; pip install 'unlabeled[embodied]'"
        ) from error
    game, variables = vizdoom.DoomGame(), vizdoom.GameVariable
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{scenario}.cfg"))
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    for hide in ("hud", "weapon", "crosshair", "messages"):
        getattr(game, f"set_render_{hide}")(False)
    # Without bobbing the camera stays at one height.
    game.add_game_args("+movebob 0 +nomonsters 1")
    game.set_available_game_variables(
        [variables.CAMERA_POSITION_X, variables.CAMERA_POSITION_Y, variables.CAMERA_ANGLE]
    )
    game.set_available_buttons([vizdoom.Button.MOVE_FORWARD, vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    game.set_episode_timeout(10**7)
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="vizdoom-") as litter:
        game.set_doom_config_path(str(Path(litter) / "vizdoom.ini"))
        try:
            os.chdir(litter)  # the engine takes its own folder from where it is started
            game.init()
        finally:
            os.chdir(before)
        try:
            yield game
        finally:
            game.close()


def _walk(game: Any, steps: int, size: int, seed: str) -> dict[str, Any]:
    """One trajectory without interruption; a level that ends on the way is restarted elsewhere."""
    for attempt in range(TRIES):
        # Seeded with text, so that no trajectory of one seed is also one of another: sums of numbers would coincide.
        draw = random.Random(f"{seed} {attempt}")
        game.set_seed(draw.getrandbits(31))
        game.new_episode()
        frames, poses, depths, turn = [], [], [], 0.0
        while len(frames) < steps and not game.is_episode_finished():
            state = game.get_state()
            # Depth is linear in the values of the engine, as was calibrated against the geometry of its maps.
            units = (state.depth_buffer.astype(np.float32) + 1.74) / 0.14
            x, y, angle = state.game_variables
            poses.append([x / UNITS, y / UNITS, math.radians(angle)])
            frames.append(_square(state.screen_buffer, size))
            depths.append(_sampled(units, size) / UNITS)
            left, ahead, right = (
                float(np.median(part)) for part in np.array_split(units[100:140], 3, axis=1)
            )
            if ahead < NEAR:  # keep turning the same way until there is room
                turn = turn if abs(turn) > 4 else (6.0 if right > left else -6.0)
                forward = 0.0
            else:
                turn = 0.6 * turn + draw.gauss(0, 1.2) if abs(turn) < 4 else 0.0
                forward = 1.0
            game.make_action([forward, turn], TICS)
        if len(frames) == steps:
            pose = np.array(poses, np.float32)
            pose[:, 2] = np.remainder(pose[:, 2] + np.pi, 2 * np.pi) - np.pi
            return {
                "video": np.stack(frames),
                "pose": pose,
                "depth": np.stack(depths).astype(np.float16),
                "action": _moves(pose),
            }
    raise UserError(f"steps must be fewer: the level ended before {steps} of them in {TRIES} tries")


def _moves(pose: np.ndarray) -> np.ndarray:
    """Metres moved and radians turned to the left from each frame to the next, 0 at the end."""
    moves = np.zeros((len(pose), 2), np.float32)
    moves[:-1, 0] = np.hypot(*np.diff(pose[:, :2], axis=0).T)
    moves[:-1, 1] = np.remainder(np.diff(pose[:, 2]) + np.pi, 2 * np.pi) - np.pi
    return moves


def _square(frame: np.ndarray, size: int) -> np.ndarray:
    """The middle square of a frame (height, width, 3), averaged down to (size, size, 3)."""
    left = (WIDTH - HEIGHT) // 2
    middle = torch.from_numpy(frame[:, left : left + HEIGHT].copy()).float()
    small = F.adaptive_avg_pool2d(rearrange(middle, "h w c -> c h w"), size)
    return rearrange(small, "c h w -> h w c").round().to(torch.uint8).numpy()


def _sampled(depth: np.ndarray, size: int) -> np.ndarray:
    """Depth at the middle of every pixel of the small image: a mean over an edge would lie in mid-air."""
    rows = ((np.arange(size) + 0.5) * HEIGHT / size).astype(int)
    return depth[rows][:, rows + (WIDTH - HEIGHT) // 2]
