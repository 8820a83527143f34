"""Saved encoders: the names of their weights never change, so that files of earlier versions load."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from unlabeled import encoders
from unlabeled.data.text.data import Texts

STAGES = "trunk.s1 trunk.s2 trunk.s3 trunk.s4"
CASES = {
    "conv4": ("image", 26, f"adapt.mean adapt.std {STAGES}"),
    "vit-small": ("image", 56, "adapt.mean adapt.std trunk.model"),
    "bert-tiny": ("text", 38, "adapt.idf trunk.model"),
    "bert-rotary-tiny": ("text", 15, "adapt.idf trunk.model"),
    "words-20-min1": ("words", 2, "adapt.shares trunk.rows"),
    "gru2-16": ("audio", 10, "adapt.mean adapt.std trunk.units"),
    "audio-conv": ("audio", 18, "adapt.mean adapt.std trunk.convolutions trunk.norms"),
    "mel-transformer-tiny": (
        "audio",
        32,
        "adapt.mean adapt.std trunk.blocks trunk.norm trunk.position trunk.project",
    ),
    "cpc-tiny": ("audio", 24, "trunk.convolutions trunk.norms trunk.unit"),
    "pase-tiny": (
        "audio",
        40,
        "trunk.convolutions trunk.norms trunk.project trunk.rectifiers trunk.rectify trunk.sinc",
    ),
    "wav2vec2-tiny": ("audio", 63, "trunk.model"),
    "frames-conv4": ("video", 26, "trunk.adapt trunk.trunk"),
    "lstm-16": ("video", 4, "trunk.bias_hh_l0 trunk.bias_ih_l0 trunk.weight_hh_l0 trunk.weight_ih_l0"),
    "conv3d": ("video", 26, f"adapt.mean adapt.std {STAGES}"),
    "av-conv4": ("audio-visual", 77, "trunk.audio trunk.image trunk.meeting"),
}
"""Kind, number of tensors, and the first two parts of their names."""


@pytest.mark.parametrize("name", CASES)
def test_weights_have_the_names_of_earlier_versions(name: str, tmp_path: Path) -> None:
    kind, count, beginnings = CASES[name]
    path = tmp_path / "encoder.safetensors"
    encoder: Any = (
        encoders.fitted(name, Texts(["a few words", "and more words"] * 9), kind=kind)
        if kind in ("text", "words")
        else encoders.build(name, kind=kind)
    )
    encoder.save(path)
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    assert len(names) == count
    assert {".".join(name.split(".")[:2]) for name in names} == set(beginnings.split())
    loaded = encoders.load(path)
    assert type(loaded) is type(encoder) and loaded.config == encoder.config
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("kind", encoders.KINDS)
def test_arguments_that_a_kind_does_not_have_are_named(kind: str) -> None:
    with pytest.raises(ValueError, match=r"argument must be one of name, .*, got nonsense"):
        encoders.build(encoders.names(kind)[0], kind=kind, nonsense=1)


def test_a_claim_that_the_file_cannot_fill_is_refused_early_and_for_that_file_alone(tmp_path: Path) -> None:
    """Sizes are tried on networks without memory, which still take time to build; what was found is remembered."""
    name = "vit_tiny_patch16_224"
    said = {"kind": "image", "name": name, "in_channels": 1, "image_size": 48}
    path = tmp_path / "encoder.safetensors"
    save_file({"weight": torch.zeros(4)}, path, metadata={"unlabeled": json.dumps(said)})
    weights = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal weights
        weights += 0 if parameter is None else parameter.numel()

    handle = register_module_parameter_registration_hook(count)
    try:
        with pytest.raises(ValueError, match="its architecture has more weights than the 4 that it holds"):
            encoders.load(path)
        assert weights < 2e6
        encoder = encoders.build(name, in_channels=1, image_size=48)
    finally:
        handle.remove()
    assert weights > 5e6
    encoder.save(path)
    assert encoders.load(path)(torch.rand(1, 1, 96, 48)).shape == (1, 192)
