"""Each format is read by the other library and gives the same features."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from unlabeled import encoders
from unlabeled.data import open_data
from unlabeled.data.text.data import Texts
from unlabeled.encoders import audio, from_timm, image, stages, word_vectors
from unlabeled.encoders.readout import Spec
from unlabeled.encoders.text import TextInput, mean_of_real
from unlabeled.exporting import export

TEXTS = ["A fox ran over the hill. It slept there.", "The cats, of course, saw it: three of them!", "Hm."]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def fitted(name: str, images: torch.Tensor, **arguments) -> encoders.Encoder:
    torch.manual_seed(0)
    encoder = encoders.build(name, **arguments)
    encoder.adapt.fit(images)
    encoder(images)
    return encoder


def test_safetensors_loads_equal_and_overwrites(images: torch.Tensor, tmp_path: Path) -> None:
    encoder = fitted("conv4", images)
    out = tmp_path / "new" / "x.safetensors"
    export(SimpleNamespace(encoder=encoder), out)
    result = export(SimpleNamespace(encoder=encoder), out)
    assert result == (out, 0, "", f"unlabeled.encoders.load('{out}')")
    assert encoder.training
    assert torch.equal(encoders.load(result.path).eval()(images), encoder.eval()(images))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("name", ["vit-small", "vit-gap-tiny"])
def test_timm_makes_the_same_model_from_the_folder(name: str, images: torch.Tensor, tmp_path: Path) -> None:
    import timm
    from timm.data.config import resolve_data_config

    encoder = fitted(name, images).eval()
    result = export(encoder, tmp_path / "vit", format="timm")
    assert result.difference < 1e-5
    model = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True).eval()
    data = resolve_data_config(model=model)
    mean, std = (torch.tensor(data[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(model((images - mean) / std), encoder(images), atol=1e-5, rtol=1e-5)
    assert data["input_size"] == (3, 32, 32)
    assert (
        json.loads((tmp_path / "vit" / "config.json").read_text())["architecture"] == "vit_tiny_patch16_224"
    )


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("conv4", {}, "encoder must be a model that timm has, got conv4 for images of 32 pixels"),
        ("resnet18", {}, "encoder must be a model that timm has, got resnet18 for images of 32 pixels"),
        ("vit-small", {"input": "lightness"}, "input must be color for timm, got lightness"),
    ],
)
def test_what_timm_cannot_carry_is_refused(name: str, arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(encoders.build(name, **arguments), tmp_path / "x", format="timm")
    assert not list(tmp_path.iterdir())


def test_onnx_runs_equal_for_any_number_of_images_and_quietly(
    images: torch.Tensor,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime

    monkeypatch.setitem(image.NAMES, "vit-small", partial(from_timm.vit_small, blocks=1, width=48))
    encoder = fitted("vit-small", images, input="lab").eval()
    result = export(encoder, tmp_path / "x.onnx", format="onnx")
    assert result.difference < 1e-5
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        features = np.asarray(session.run(["features"], {"images": images[:count].numpy()})[0])
        np.testing.assert_allclose(features, encoder(images[:count]).detach().numpy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "sizes"), [("conv4", [(48, 40), (64, 17)]), ("vit_tiny_patch16_224", [(48, 96)])]
)
def test_onnx_takes_other_sizes_and_numbers_of_images(
    name: str,
    sizes: list[tuple[int, int]],
    images: torch.Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnxruntime
    import timm

    monkeypatch.setitem(image.NAMES, "conv4", two_stages)
    if name.startswith("vit"):  # a block takes as long to export as all the rest
        monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=1))
    encoder = fitted(name, images, input="sobel").eval()
    result = export(encoder, tmp_path / "x.onnx", format="onnx")
    assert result.note.startswith("it takes images as float32 in 0..1, shape (batch, ")
    assert result.note.endswith(", height, width), of any size that the encoder takes")
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    for count, size in enumerate(sizes, 1):
        given = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(count))
        features = np.asarray(session.run(["features"], {"images": given.numpy()})[0])
        np.testing.assert_allclose(features, encoder(given).detach().numpy(), atol=1e-5, rtol=1e-4)


def test_onnx_of_a_network_for_one_size_says_so_and_still_takes_any_number(
    images: torch.Tensor, tmp_path: Path
) -> None:
    import onnxruntime

    encoder = fitted("dense", images).eval()
    result = export(encoder, tmp_path / "x.onnx", format="onnx")
    assert result.note.endswith("of 32 x 32 pixels only (the encoder takes no others)")
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    features = np.asarray(session.run(["features"], {"images": images[:1].numpy()})[0])
    np.testing.assert_allclose(features, encoder(images[:1]).detach().numpy(), atol=1e-5, rtol=1e-5)


def test_networks_of_ones_own_are_exported_as_they_are(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, 2), nn.ReLU())
    encoder = encoders.wrap(network, in_channels=1, image_size=16)
    for name, format in (("x.safetensors", "safetensors"), ("x.onnx", "onnx")):
        assert export(encoder, tmp_path / name, format=format).difference < 1e-5  # type: ignore[arg-type]


def run_onnx(session: Any, **inputs: torch.Tensor) -> torch.Tensor:
    given = {name: value.numpy() for name, value in inputs.items()}
    return torch.from_numpy(np.asarray(session.run(["features"], given)[0]))


SLOWER = [
    pytest.param(name, marks=pytest.mark.golden) for name in ("bert-tiny", "bert-rotary-tiny", "gpt-tiny")
]


@pytest.mark.parametrize("name", ["nplm-tiny", *SLOWER])
def test_onnx_reads_texts_of_any_length_by_the_tokenizer_in_the_file(name: str, tmp_path: Path) -> None:
    import onnxruntime
    from tokenizers import Tokenizer

    torch.manual_seed(0)
    texts = Texts([*TEXTS, "The fox saw the cats over the hill. " * 9] * 10)
    encoder = encoders.fitted(name, texts, kind="text", length=32).eval()
    result = export(encoder, tmp_path / "x.onnx", format="onnx")
    assert result.difference < 1e-5 and "at most 32 tokens" in result.note
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_str(session.get_modelmeta().custom_metadata_map["tokenizer"])
    for rows in ([0, 1, 2, 3], [2], [3, 1]):
        encodings = tokenizer.encode_batch([texts.texts[row] for row in rows])
        given = [torch.tensor([getattr(e, part) for e in encodings]) for part in ("ids", "attention_mask")]
        theirs = run_onnx(session, input_ids=given[0], attention_mask=given[1])
        batch = encoder.evaluation_view(texts).batch(torch.tensor(rows))
        with torch.no_grad():
            torch.testing.assert_close(theirs, encoder(encoder.inputs(batch)), atol=1e-5, rtol=1e-5)
    # The mask counts: a token that is none of the text's changes nothing, a token that is does.
    ids, mask = torch.tensor([[1, 7, 8, 9]]), torch.tensor([[1, 1, 1, 0]])
    other = torch.tensor([[1, 7, 8, 11]])
    first, second = (run_onnx(session, input_ids=row, attention_mask=mask) for row in (ids, other))
    assert torch.equal(first, second)
    whole = [run_onnx(session, input_ids=row, attention_mask=torch.ones_like(row)) for row in (ids, other)]
    assert (whole[0] - whole[1]).abs().max() > 1e-4


def sounds(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    noise = 0.1 * torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(7))
    length = torch.tensor(lengths)
    return noise * (torch.arange(max(lengths)) < length[:, None]), length


class TwoConvolutions(audio.Convolutional):
    """The first layers of `audio-conv`, of stride 1 and 2."""

    def __init__(self, bins: int) -> None:
        super().__init__(bins)
        self.map_dims = dict(list(self.map_dims.items())[:2])
        self.dim = self.map_dims["conv2"]


def two_stages(in_channels: int, image_size: int) -> stages.Stages:
    """Two convolutions as stages."""
    first, second = nn.Conv2d(in_channels, 32, 3, padding=1), nn.Conv2d(32, 64, 3, 2, 1)
    return stages.Stages({"s1": nn.Sequential(first, nn.ReLU()), "s2": second}, [32, 64])


LARGER = ["gru3", "mel-dictionary-16", "mel-transformer-tiny", "wav2vec2-tiny", "wav2vec2-mini"]


@pytest.mark.parametrize("name", ["audio-conv", *[pytest.param(n, marks=pytest.mark.golden) for n in LARGER]])
def test_onnx_hears_sounds_of_any_length_from_the_waveform_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(audio, "Convolutional", TwoConvolutions)
    torch.manual_seed(0)
    encoder = encoders.build(name, kind="audio", sample_rate=8000).eval()
    result = export(encoder, tmp_path / "x.onnx", format="onnx")
    tolerance = 1e-4 if name.startswith("mel-dictionary") else 1e-5
    assert result.difference < tolerance and "at 8000 Hz" in result.note
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["sample_rate"] == "8000"
    for lengths in ([4000, 2500, 150], [1234], [7000, 7000], [10]):
        waveform, length = sounds(*lengths)
        with torch.no_grad():
            ours = encoder((waveform, length))
        theirs = run_onnx(session, waveform=waveform, length=length)
        torch.testing.assert_close(theirs, ours, atol=tolerance * max(1, float(ours.abs().max())), rtol=0)
    waveform, length = sounds(4000, 2500)
    longer = nn.functional.pad(waveform, (0, 3000))
    padded, cut = (run_onnx(session, waveform=x, length=length) for x in (longer, waveform))
    torch.testing.assert_close(padded, cut, atol=tolerance, rtol=1e-5)


@pytest.mark.golden
def test_onnx_of_norms_over_time_takes_sounds_of_one_length(tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(0)
    encoder = encoders.build("wav2vec2-base", kind="audio", sample_rate=8000).eval()
    result = export(encoder, tmp_path / "x.onnx", format="onnx")
    assert result.difference < 1e-5 and "all of one length in a batch" in result.note
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["waveform"]
    for lengths in ([4000, 4000], [1500], [300]):
        waveform, length = sounds(*lengths)
        with torch.no_grad():
            ours = encoder((waveform, length))
        torch.testing.assert_close(run_onnx(session, waveform=waveform), ours, atol=1e-5, rtol=1e-5)


def test_networks_that_torch_cannot_export_are_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(audio, "Convolutional", TwoConvolutions)
    encoder = encoders.build("audio-conv", kind="audio", sample_rate=8000).eval()
    forward = encoder.trunk.layers
    monkeypatch.setattr(
        type(encoder.trunk), "layers", lambda self, x, n: forward(x, n) if float(x.sum()) > -1e9 else None
    )
    with pytest.raises(
        ValueError, match=r"that torch exports for format onnx, got audio-conv \(.+\)\. Take safet"
    ):
        export(encoder, tmp_path / "x.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda package: None if package == "onnxruntime" else object()
    )
    with pytest.raises(
        ValueError, match=r"format onnx needs onnxruntime; run pip install 'unlabeled\[onnx\]"
    ):
        export(encoders.build("conv4"), tmp_path / "x.onnx", format="onnx")


def test_features_that_differ_leave_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    honest = encoders.load

    def tampered(path: Path, network: Any = None) -> encoders.Encoder:
        encoder = honest(path, network)
        encoder.adapt.mean += 0.01
        return encoder

    monkeypatch.setattr(encoders, "load", tampered)
    with pytest.raises(ValueError, match="features must agree to 1e-05 in safetensors, got a difference of"):
        export(encoders.build("conv4"), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["bert-tiny", "bert-rotary-tiny", "gpt-tiny"])
def test_transformers_reads_texts_as_we_do_from_the_folder_alone(name: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(0)
    texts = [
        *TEXTS,
        "The fox saw the cats over the hill. " * 9,
        "[MASK] <|endoftext|> [SEP] fox",
        "日本 ŝ\t\n!",
    ]
    data = Texts(texts * 10)
    encoder = encoders.fitted(name, data, kind="text", length=32).eval()
    export(encoder, tmp_path / "x", format="transformers")
    result = export(encoder, tmp_path / "x", format="transformers")
    assert result.difference < 1e-5 and [file.name for file in tmp_path.iterdir()] == ["x"]
    model, tokenizer = (kind.from_pretrained(str(result.path)) for kind in (AutoModel, AutoTokenizer))
    given = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    theirs = mean_of_real(model.eval()(**given).last_hidden_state, given["attention_mask"].bool())
    x = encoder.inputs(encoder.evaluation_view(data).batch(torch.arange(len(texts))))
    ours = encoder(x)
    assert torch.equal(given["input_ids"], x.tokens) and torch.equal(given["attention_mask"].bool(), x.mask)
    assert x.mask[3].all() and x.mask.shape[1] == 32, "one text fills the window, the others are padded"
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    for row, text in enumerate(texts):  # alone, without padding
        alone = model(**tokenizer(text, truncation=True, return_tensors="pt")).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(alone, ours[row], atol=1e-5, rtol=1e-5)
    assert (ours[0] - ours[1]).abs().max() > 1e-3, "texts differ at all"


def test_transformers_separates_the_two_texts_of_a_pair_as_bert_is_trained(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    from unlabeled.parts import sentence_pairs

    torch.manual_seed(0)
    encoder = encoders.fitted("bert-tiny", Texts(TEXTS * 10), kind="text").eval()
    export(encoder, tmp_path / "x", format="transformers")
    model, tokenizer = (kind.from_pretrained(str(tmp_path / "x")) for kind in (AutoModel, AutoTokenizer))
    given = tokenizer("A fox ran.", "The cats saw it.", return_tensors="pt")
    first, second = encoder.encode(["A fox ran.", "The cats saw it."])
    cut = len(first)
    pair = sentence_pairs.Pair(*(torch.tensor([number]) for number in (cut, len(second), 0, cut, 0)))
    special = (encoder.special(token) for token in ("[CLS]", "[SEP]"))
    x = TextInput(*sentence_pairs.join(torch.tensor([first + second]), pair, *special))
    assert torch.equal(given["input_ids"], x.tokens) and torch.equal(given["token_type_ids"], x.segment)
    theirs = model.eval()(**given).last_hidden_state
    torch.testing.assert_close(theirs, encoder.states(x), atol=1e-5, rtol=1e-5)
    assert (theirs - encoder.states(x._replace(segment=x.segment * 0))).abs().max() > 1e-3


def test_transformers_predicts_the_next_piece_as_gpt_does(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from unlabeled.methods.gpt import GPT

    torch.manual_seed(0)
    data = Texts(TEXTS * 10)
    method = GPT(encoders.fitted("gpt-tiny", data, kind="text")).eval()
    export(method, tmp_path / "x", format="transformers")
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "x")).eval()
    given = AutoTokenizer.from_pretrained(str(tmp_path / "x"))(TEXTS, padding=True, return_tensors="pt")
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    theirs = model(**given, labels=labels).loss
    batch = method.encoder.evaluation_view(data).batch(torch.arange(3))
    torch.testing.assert_close(theirs, method(batch), atol=1e-5, rtol=1e-5)


def test_a_window_of_tokens_is_saved_and_is_no_model_of_transformers(tmp_path: Path) -> None:
    encoder = encoders.fitted("nplm-tiny", Texts(TEXTS * 10), kind="text").eval()
    assert export(encoder, tmp_path / "x.safetensors").difference == 0
    with pytest.raises(
        ValueError, match=r"must be a model of transformers, got nplm-tiny\. Take safetensors"
    ):
        export(encoder, tmp_path / "x", format="transformers")
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_transformers_hears_sounds_as_we_do_from_the_folder_alone(tmp_path: Path) -> None:
    from transformers import AutoFeatureExtractor, AutoModel

    torch.manual_seed(0)
    encoder = encoders.build("wav2vec2-tiny", kind="audio", sample_rate=16_000).eval()
    result = export(encoder, tmp_path / "x", format="transformers")
    assert result.difference < 1e-5
    waveform = torch.randn(2, 4000, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.05
    extractor = AutoFeatureExtractor.from_pretrained(str(result.path))
    given = extractor(list(waveform.numpy()), sampling_rate=16_000, return_tensors="pt")
    model = AutoModel.from_pretrained(str(result.path)).eval()
    theirs = model(given["input_values"]).last_hidden_state.mean(1)
    torch.testing.assert_close(theirs, encoder((waveform, torch.tensor([4000, 4000]))), atol=1e-4, rtol=1e-4)


def test_gensim_reads_word_vectors_and_their_order(tmp_path: Path) -> None:
    models = pytest.importorskip("gensim.models")
    torch.manual_seed(0)
    words = ["the", "café", "don't", "new_york", "東京", "हिन्दी"]
    encoder = word_vectors.build("words-20", vocabulary=words)
    result = export(encoder, tmp_path / "x.txt", format="word2vec")
    vectors = models.KeyedVectors.load_word2vec_format(str(result.path))
    assert result.difference == 0 and vectors.index_to_key == words
    np.testing.assert_array_equal(vectors.vectors, encoder.vectors.numpy())
    assert [word for word, _ in vectors.most_similar("the")] == [word for word, _ in encoder.nearest("the")]


KINDS = {
    "text": ("bert-tiny", {}),
    "words": ("words-20", {"vocabulary": [f"w{number}" for number in range(30)]}),
    "audio": ("gru2-256", {"sample_rate": 8000}),
    "video": ("conv3d", {"image_size": 16, "frames": 4}),
    "audio-visual": ("av-conv4", {"image_size": 32, "sample_rate": 8000, "seconds": 0.5}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_safetensors_carries_encoders_of_every_kind(kind: str, tmp_path: Path) -> None:
    from unlabeled.exporting.proof import example

    torch.manual_seed(0)
    name, arguments = KINDS[kind]
    if kind == "text":
        encoder = encoders.fitted(name, Texts(TEXTS * 10), kind=kind)
    else:
        encoder = encoders.build(name, kind=kind, **arguments)
    result = export(encoder, tmp_path / "x.safetensors")
    assert result.difference == 0
    found, given = encoders.load(result.path).eval(), encoder.inputs(example(encoder))
    assert found.kind == kind and found.config == encoder.config
    features = encoder.eval()(given)
    assert torch.equal(found(given), features) and features.std() > 0


def test_every_kind_is_proven() -> None:
    assert {*KINDS, "image"} == {*encoders.KINDS}


@pytest.mark.parametrize("length", [8, 128])
def test_networks_of_any_window_can_be_proven(length: int, tmp_path: Path) -> None:
    encoder = encoders.fitted("bert-tiny", Texts(TEXTS * 10), kind="text", length=length)
    assert export(encoder, tmp_path / "x", format="transformers").difference < 1e-5


def test_files_and_folders_are_not_put_in_each_others_place(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(
        ValueError, match=r"out must be a file for format safetensors, got the folder .*x.saf"
    ):
        export(encoders.build("conv4"), tmp_path / "x.safetensors")
    (tmp_path / "y").write_text("mine")
    with pytest.raises(ValueError, match=r"out must be a folder for format timm, got the file .*y"):
        export(encoders.build("vit-small"), tmp_path / "y", format="timm")
    assert (tmp_path / "y").read_text() == "mine"


@pytest.mark.parametrize(
    ("kind", "name", "arguments", "format", "message"),
    [
        (
            "image",
            "conv4",
            {},
            "word2vec",
            "format must be safetensors or timm or onnx or transformers for an encoder of images, got word2vec",
        ),
        (
            "audio",
            "gru2-256",
            {},
            "transformers",
            "encoder must be a wav2vec2 for transformers, got gru2-256",
        ),
        (
            "video",
            "conv3d",
            {"image_size": 16, "frames": 4},
            "onnx",
            "format must be safetensors for an encoder of videos, got onnx",
        ),
    ],
)
def test_other_formats_refuse_what_they_cannot_carry(
    kind: str, name: str, arguments: dict, format, message: str, tmp_path: Path
) -> None:
    out = tmp_path / {"word2vec": "x.txt", "onnx": "x.onnx"}.get(format, "x")
    with pytest.raises(ValueError, match=message):
        export(encoders.build(name, kind=kind, **arguments), out, format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("out", "format", "message"),
    [
        ("x.pt", "safetensors", r"out must end in \.safetensors, got x\.pt"),
        ("x", "onnx", r"out must end in \.onnx, got x"),
        ("x", "coreml", "format must be one of safetensors, timm, onnx, transformers, word2vec, got coreml"),
    ],
)
def test_bad_values_name_the_parameter(out: str, format, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(encoders.build("conv4"), tmp_path / out, format=format)


@pytest.mark.parametrize(
    "words", ["s1:2x2:whiten:8", pytest.param("s2", marks=pytest.mark.golden), "s2:2x2:views:8"]
)
def test_features_of_a_readout_are_the_same_in_onnx_and_safetensors(
    words: str, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(image.NAMES, "conv4", two_stages)
    encoder = fitted("conv4", images).eval()
    data = open_data((images * 255).to(torch.uint8).repeat(4, 1, 1, 1))
    readout = encoders.fit_readout(encoder, Spec.parse(words), data)
    assert export(readout, tmp_path / "x.onnx", format="onnx").difference < 1e-5
    path = export(readout, tmp_path / "x.safetensors").path
    with torch.no_grad():
        assert torch.equal(encoders.load(path).eval()(images), readout(images))
    with pytest.raises(ValueError, match=f"features must be output for format timm, got {words}"):
        export(readout, tmp_path / "x", format="timm")
