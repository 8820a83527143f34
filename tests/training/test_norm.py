"""A synchronized norm is an ordinary one in one process; two processes are in test_distributed.py."""

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from unlabeled.training.norm import is_synchronized, synchronize


def test_one_process_computes_what_batch_norm_computes() -> None:
    for plain in (nn.BatchNorm1d(3), nn.BatchNorm2d(3), BatchNormAct2d(3), nn.BatchNorm2d(3, affine=False)):
        twin = type(plain)(3, affine=False) if plain.weight is None else type(plain)(3)
        synchronize(twin)
        inputs = torch.randn(6, 3) if isinstance(plain, nn.BatchNorm1d) else torch.randn(6, 3, 2, 2)
        for training in (True, False):
            plain.train(training)
            twin.train(training)
            assert torch.equal(twin(inputs), plain(inputs))
        assert torch.equal(twin.running_var, plain.running_var)


def test_names_parameters_and_buffers_stay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(BatchNormAct2d(4)))
    before = network.state_dict(keep_vars=True)
    after = synchronize(network).state_dict(keep_vars=True)
    assert list(before) == list(after) and all(before[name] is after[name] for name in before)
    assert sum(is_synchronized(module) for module in network.modules()) == 2
