"""What parts of a network give inside a forward pass of the whole."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

__all__ = ["outputs_of"]


@contextmanager
def outputs_of(modules: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """A list that fills with the outputs of modules, in the order of their calls, until the block ends.

    Args:
        modules: Modules that return one tensor each.
    """
    outputs: list[Tensor] = []
    with ExitStack() as stack:
        for module in modules:
            hook = module.register_forward_hook(lambda *given: outputs.append(given[2]))
            stack.callback(hook.remove)
        yield outputs
