"""Rooms: trajectories through a small house whose rooms have their own walls and floors, through the eyes of an agent.

The house is a grid of square rooms joined by doorways, the same for all trajectories of one `house`. The walker heads
for random positions, room by room, and never through a wall. Images and depths are exact: rays are intersected with
walls of no thickness, with the floor and with the ceiling.

Factors, by frame: `room` number, counted along x, then y.

Baselines in house 0: the nearest of 2,048 images (every fourth of 64 trajectories of seed 0, 32x32 pixels) is of the
same room as an image of 16 trajectories of seed 1 in 98 % of cases (the commonest room: 29 %), and was seen 0.36 m away
on average. Memorising is enough in this house, so compare with pixels.
"""

import math

import torch
from einops import rearrange, repeat
from torch import Tensor

from unlabeled import check

__all__ = ["ROOM", "look", "make", "plan", "stroll", "walls"]

ROOM = 4.0
"""Side of a room, metres."""
DOOR = 1.2
HEIGHT, EYES = 2.5, 1.25
FOCAL = 0.5
"""Focal length in image widths: a field of view of 90 degrees."""
STRIDE, TURN = 0.2, 0.35
"""Most metres forward and radians of turning in a step."""
MARGIN = 0.7
"""Least distance of a destination from the walls, metres."""
TEXELS = 64


def make(
    n: int,
    seed: int,
    *,
    frames: int = 128,
    size: int = 48,
    columns: int = 3,
    rows: int = 2,
    house: int = 0,
    still: bool = False,
) -> dict[str, Tensor]:
    """Draw trajectories.

    Args:
        n: Trajectories.
        seed: Seed of the trajectories.
        frames: Steps of each trajectory.
        size: Height and width in pixels.
        columns: Rooms along x.
        rows: Rooms along y.
        house: Seed of the house: its doorways, walls and floors.
        still: Whether the walker stays where it is, so that moments cannot be distinguished: a control.

    Returns:
        `video` uint8 (n, frames, 3, size, size); `pose` float (n, frames, 3): x, y in metres and the heading in
        radians counter-clockwise from +x, in -pi..pi; `depth` float (n, frames, size, size): metres along the line of
        sight (the distance to the plane of the point, not to the point); `action` float (n, frames, 2): metres
        forward and radians to the left from this frame to the next, 0 at the end; `room` int64 (n, frames).
    """
    check.at_least(1, n=n, frames=frames, size=size, columns=columns, rows=rows)
    doors = plan(columns, rows, house)
    pose, action = stroll(n, frames, doors, (columns, rows), torch.Generator().manual_seed(seed))
    if still:
        pose, action = pose[:, :1].expand(-1, frames, -1).clone(), torch.zeros_like(action)
    segments, decoration = walls(doors, (columns, rows)), Decoration(columns * rows, house)
    video = torch.empty(n, frames, 3, size, size, dtype=torch.uint8)
    depth = torch.empty(n, frames, size, size)
    for trajectory in range(n):
        images, depth[trajectory] = look(pose[trajectory], segments, decoration, columns, size)
        video[trajectory] = (images * 255).round().to(torch.uint8)
    return {
        "video": video,
        "pose": pose,
        "depth": depth,
        "action": action,
        "room": room_of(pose[..., 0], pose[..., 1], columns),
    }


def room_of(x: Tensor, y: Tensor, columns: int) -> Tensor:
    """Number of the room of a position, int64, the shape of x and y (metres)."""
    return (x / ROOM).floor().long() + columns * (y / ROOM).floor().long()


def plan(columns: int, rows: int, house: int) -> list[tuple[int, int]]:
    """Pairs of rooms that a doorway joins: every room can be reached, and about half of the other walls are open.

    Args:
        columns: Rooms along x.
        rows: Rooms along y.
        house: Seed.
    """
    beside = [
        *((room, room + 1) for room in range(columns * rows) if (room + 1) % columns),
        *((room, room + columns) for room in range(columns * (rows - 1))),
    ]
    generator = torch.Generator().manual_seed(house)
    group, doors = list(range(columns * rows)), []
    for number in torch.randperm(len(beside), generator=generator).tolist():
        first, second = beside[number]
        if group[first] != group[second] or torch.rand((), generator=generator) < 0.5:
            doors.append((first, second))
            group = [group[first] if member == group[second] else member for member in group]
    return sorted(doors)


def walls(doors: list[tuple[int, int]], grid: tuple[int, int]) -> Tensor:
    """Pieces of wall, each seen from the room that it belongs to.

    Args:
        doors: As from `plan`.
        grid: Rooms along x and along y.

    Returns:
        Float, shape (pieces, 6): the axis that the wall crosses (0 for a wall of constant x), its position on that
        axis, its start and end on the other one (metres), the side of it on which its room lies (1 or -1), and the
        number of the wall, four for each room.
    """
    columns, rows = grid
    joined = {frozenset(pair) for pair in doors}
    pieces = []
    for room in range(columns * rows):
        corner = (ROOM * (room % columns), ROOM * (room // columns))
        for side in range(4):
            axis, far = divmod(side, 2)
            neighbour = room + (1 if far else -1) * (1 if axis == 0 else columns)
            place, start = corner[axis] + far * ROOM, corner[1 - axis]
            gap = [ROOM / 2 - DOOR / 2, ROOM / 2 + DOOR / 2]
            ends = [0.0, *gap, ROOM] if frozenset((room, neighbour)) in joined else [0.0, ROOM]
            for low, high in zip(ends[::2], ends[1::2]):
                pieces.append([axis, place, start + low, start + high, -1 if far else 1, 4 * room + side])
    return torch.tensor(pieces, dtype=torch.float32)


def stroll(
    n: int, frames: int, doors: list[tuple[int, int]], grid: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Walk from random position to random position, through doorways.

    Args:
        n: Trajectories.
        frames: Steps.
        doors: As from `plan`.
        grid: Rooms along x and along y.
        generator: Source of every choice.

    Returns:
        `pose` float (n, frames, 3) and `action` float (n, frames, 2), as from `make`.
    """
    columns, rows = grid
    poses = []
    for _ in range(n):
        draw = torch.rand(8 * frames + 8, generator=generator).tolist()
        room = int(draw.pop() * columns * rows)
        x, y = _place(room, columns, draw.pop(), draw.pop())
        heading, targets, trajectory = math.tau * draw.pop(), [], []
        for _ in range(frames):
            trajectory.append((x, y, heading))
            if not targets:
                options = [pair for pair in doors if room in pair]
                if options and draw.pop() < 0.7:
                    pair = options[int(draw.pop() * len(options))]
                    after = pair[0] if room == pair[1] else pair[1]
                    targets += [_door(room, after, columns, -0.4), _door(room, after, columns, 0.4)]
                    room = after
                targets.append(_place(room, columns, draw.pop(), draw.pop()))
            (left, up) = (targets[0][0] - x, targets[0][1] - y)
            distance = math.hypot(left, up)
            off = math.remainder(math.atan2(up, left) - heading, math.tau)
            turn = max(-TURN, min(TURN, off + 0.1 * (draw.pop() - 0.5)))
            # Turning on the spot where the way leads elsewhere keeps the path straight, and so clear of walls.
            forward = min(STRIDE, distance) if abs(off) < TURN else 0.0
            heading += off if forward else turn
            x, y = x + forward * math.cos(heading), y + forward * math.sin(heading)
            if distance - forward < 0.05:
                targets.pop(0)
        poses.append(trajectory)
    pose = torch.tensor(poses)
    turned = pose[:, 1:, 2] - pose[:, :-1, 2]
    moved = (pose[:, 1:, :2] - pose[:, :-1, :2]).norm(dim=-1)
    action = torch.zeros(n, frames, 2)
    action[:, :-1] = torch.stack([moved, turned], -1)
    pose[..., 2] = torch.remainder(pose[..., 2] + math.pi, math.tau) - math.pi
    return pose, action


def _place(room: int, columns: int, along: float, across: float) -> tuple[float, float]:
    """A position in a room, metres; along and across lie in 0..1."""
    inner = ROOM - 2 * MARGIN
    return (
        ROOM * (room % columns) + MARGIN + inner * along,
        ROOM * (room // columns) + MARGIN + inner * across,
    )


def _door(room: int, after: int, columns: int, beyond: float) -> tuple[float, float]:
    """The position on the middle line of a doorway that lies so many metres beyond it."""
    here, there = (ROOM * (room % columns) + ROOM / 2, ROOM * (room // columns) + ROOM / 2), after - room
    ahead = (ROOM / 2 + beyond) * (1 if there > 0 else -1)
    return (here[0] + ahead, here[1]) if abs(there) == 1 and columns > 1 else (here[0], here[1] + ahead)


class Decoration:
    """What the walls and floors look like.

    Args:
        rooms: Rooms of the house.
        house: Seed.
    """

    def __init__(self, rooms: int, house: int) -> None:
        generator = torch.Generator().manual_seed(house + 1)

        def pattern(count: int, cells: int) -> Tensor:
            coarse = torch.rand(count, 3, cells, cells, generator=generator)
            return torch.nn.functional.interpolate(coarse, size=TEXELS, mode="bicubic", align_corners=True)

        tint = torch.rand(rooms, 3, 1, 1, generator=generator)
        walls = 0.55 * repeat(tint, "rooms c 1 1 -> (rooms 4) c 1 1") + 0.45 * pattern(4 * rooms, 6)
        self.walls = walls.clamp(0, 1)
        """Paintings that cover a wall, float in 0..1, shape (4 * rooms, 3, texels, texels)."""
        self.floors = (0.35 * tint.flip(1) + 0.35 * pattern(rooms, 7)).clamp(0, 1)
        """The same for the floors."""


def look(
    pose: Tensor, segments: Tensor, decoration: Decoration, columns: int, size: int
) -> tuple[Tensor, Tensor]:
    """What a walker sees.

    Args:
        pose: x, y (metres) and heading (radians), float, shape (frames, 3).
        segments: As from `walls`.
        decoration: Of the same house.
        columns: Rooms of the house along x.
        size: Height and width in pixels.

    Returns:
        Images, float in 0..1, shape (frames, 3, size, size), and depths in metres along the line of sight, float,
        shape (frames, size, size).
    """
    x, y, heading = pose[:, None].unbind(-1)
    slope = ((torch.arange(size) + 0.5) / size - 0.5) / FOCAL  # of a column to the right, of a row downwards
    ahead = torch.stack([heading.cos() + slope * heading.sin(), heading.sin() - slope * heading.cos()])
    here = torch.stack([x, y])[..., None]  # (2, frames, 1, 1), ahead is (2, frames, size)

    axis = segments[:, 0].long()
    speed = ahead[axis].movedim(0, -1)  # (frames, size, pieces)
    other = ahead[1 - axis].movedim(0, -1)
    start, across = here[axis, :, 0].movedim(0, -1), here[1 - axis, :, 0].movedim(0, -1)
    _, place, low, high, side, number = segments.unbind(1)
    depth = (place - start) / torch.where(speed.abs() < 1e-9, 1e-9, speed)
    along = across + depth * other
    # Facing: each room sees its own side of a wall that it shares.
    struck = (depth > 1e-6) & (along >= low) & (along <= high) & (speed * side < 0)
    depth, piece = depth.where(struck, torch.inf).min(-1)
    along = along.gather(-1, piece[..., None])[..., 0] / ROOM
    along = along - along.floor()

    down = slope[:, None]
    flat = torch.where(down > 0, EYES / down.clamp(min=1e-6), (HEIGHT - EYES) / (-down).clamp(min=1e-6))
    depth, flat = torch.broadcast_tensors(depth[:, None], flat)  # (frames, rows, columns)
    is_wall = depth <= flat
    total = torch.minimum(depth, flat)

    level = ((EYES - total * down) / HEIGHT).clamp(0, 1)
    painted = _texel(decoration.walls, number.long()[piece][:, None], along[:, None], 1 - level)
    points = here + total * ahead[:, :, None]
    room = room_of(points[0], points[1], columns).clamp(0, len(decoration.floors) - 1)
    cell = points / ROOM
    floor = _texel(decoration.floors, room, *(cell - cell.floor()).unbind(0))
    below = (down > 0).expand_as(is_wall)
    image = torch.where(is_wall[..., None], painted, torch.where(below[..., None], floor, 0.85))
    return rearrange(image, "frames h w c -> frames c h w").clamp(0, 1), total


def _texel(patterns: Tensor, number: Tensor, along: Tensor, down: Tensor) -> Tensor:
    """Colours at positions (0..1) of some of the patterns, float, shape (..., 3)."""
    column, row = ((TEXELS * part).long().clamp(0, TEXELS - 1) for part in (along, down))
    return patterns.permute(0, 2, 3, 1)[number, row, column]
