"""Batch norm over the samples of all processes, on any device."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlabeled.check import UserError
from unlabeled.parts import gather
from unlabeled.parts.precision import full

__all__ = ["SynchronizedBatchNorm", "synchronize"]


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm that takes its statistics over all processes, which hold equally many values each.

    Outputs, running statistics and gradients are those of one process with the whole batch.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise UserError(f"input must have at least 2 axes, got {input.ndim}")

    def forward(self, input: Tensor) -> Tensor:
        alone = gather.processes() == 1 or not (self.training or self.running_mean is None)
        output = super().forward(input) if alone else self._synchronized(input)
        for child in self.children():  # the activation that some of timm's norms carry
            output = child(output)
        return output

    def _synchronized(self, input: Tensor) -> Tensor:
        values = full(input)
        own = torch.var_mean(values, [0, *range(2, values.ndim)], correction=0)
        variances, means = gather.gather(torch.stack(own)[None]).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        count = values.numel() // values.shape[1] * gather.processes()
        self._follow(mean.detach(), variance.detach() * count / max(1, count - 1))
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale + (self.bias if self.affine else 0)
        axes = (-1, *[1] * (values.ndim - 2))
        return (values * scale.view(axes) + shift.view(axes)).to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def synchronize(network: nn.Module) -> nn.Module:
    """Turn every batch norm of a network into a synchronized one, in place.

    Parameters, buffers and their names stay; only where the statistics are taken changes.

    Args:
        network: Any module, trained by several processes.

    Returns:
        The same module.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            module.__class__ = SynchronizedBatchNorm
    return network
