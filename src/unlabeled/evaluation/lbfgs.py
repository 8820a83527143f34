"""L-BFGS for smooth convex functions, each step tried whole first."""

from collections import deque
from collections.abc import Callable

from torch import Tensor

__all__ = ["minimum"]

TOLERANCE = 1e-6
"""How much of the value the next step may still promise to save at the optimum."""
MEMORY = 20
"""Steps that are remembered."""


def minimum(loss: Callable[[Tensor], tuple[float, Tensor]], state: Tensor, iterations: int) -> Tensor:
    """Where a function is lowest.

    Args:
        loss: A convex function above 0: its value and its gradient.
        state: Where to start.
        iterations: Most steps.

    Returns:
        The state after the last step.
    """
    value, slope = loss(state)
    memory: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=MEMORY)
    for _ in range(iterations):
        step, factors = -slope, []
        for move, change, curvature in reversed(memory):
            factors.append((move * step).sum() / curvature)
            step = step - factors[-1] * change
        if memory:
            _, change, curvature = memory[-1]
            step = step * (curvature / change.square().sum())
        for move, change, curvature in memory:
            step = step + (factors.pop() - (change * step).sum() / curvature) * move
        saving = -float((slope * step).sum())
        if not saving > TOLERANCE * value:
            break
        length = 1.0
        lower, new_slope = loss(state + step)
        while not lower <= value - 1e-4 * length * saving and length > 1e-3:
            # The parabola through both values and the slope here is lowest there.
            length *= max(0.1, length * saving / (2 * (lower - value + length * saving)))
            lower, new_slope = loss(state + length * step)
        if not lower < value:  # as low as single precision can tell
            break
        move, change = length * step, new_slope - slope
        curvature = (move * change).sum()
        if curvature > 0:
            memory.append((move, change, curvature))
        state, value, slope = state + move, lower, new_slope
    return state
