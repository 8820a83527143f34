"""Without the private names of other libraries the same comes out."""

import numpy as np
import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

from unlabeled.kernels import compat, lanes


def test_products_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = torch.randn(5, 7), torch.randn(3, 7)
    fast = compat.linear(left, right)
    monkeypatch.setattr(compat, "ONEDNN_LINEAR", None)
    torch.testing.assert_close(compat.linear(left, right), fast)


def test_copies_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [torch.randn(3), torch.arange(4), torch.tensor(True)]
    results = []
    for function in (compat.FOREACH_COPY, None):
        monkeypatch.setattr(compat, "FOREACH_COPY", function)
        compat.copy_all_(targets := [torch.zeros_like(source) for source in sources], sources)
        results.append(targets)
    for first, second, source in zip(*results, sources):
        assert torch.equal(first, second) and torch.equal(first, source)


def test_buffers_by_their_public_names(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3))
    module.register_buffer("bank", torch.zeros(2), persistent=False)
    fast = [dict(compat.buffers_of(part)) for part in module.modules()]
    monkeypatch.setattr(compat, "BUFFERS", "_gone")
    plain = [compat.buffers_of(part) for part in module.modules()]
    assert [list(buffers) for buffers in plain] == [
        ["bank"],
        ["running_mean", "running_var", "num_batches_tracked"],
    ]
    assert all(buffers[name] is value for buffers, part in zip(plain, fast) for name, value in part.items())


def test_batch_norms_of_torch_and_timm_are_public_subclasses() -> None:
    norms = [nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2), BatchNormAct2d(2)]
    assert all(isinstance(norm, compat.PUBLIC_BATCH_NORMS) for norm in norms)
    assert all(isinstance(norm, compat.BATCH_NORMS) for norm in norms)
    assert not any(isinstance(norm, compat.BATCH_NORMS) for norm in (nn.LayerNorm(2), nn.InstanceNorm2d(2)))


def _double(values):
    return 2 * values


def test_compiled_functions_without_our_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = lanes.jit_cached(_double)(np.arange(3.0))
    monkeypatch.setattr(compat, "CACHE", "_gone")
    assert (lanes.jit_cached(_double)(np.arange(3.0)) == fast).all()


def test_attention_is_drawn_again_by_its_private_method() -> None:
    layer = nn.MultiheadAttention(4, 2)
    with torch.no_grad():
        layer.in_proj_weight.fill_(torch.nan)
    next(getattr(layer, name) for name in compat.RESETS if hasattr(layer, name))()
    assert layer.in_proj_weight.isfinite().all()
