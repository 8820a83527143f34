"""Weights of timm, torchvision and transformers: outputs equal those of the libraries themselves."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

import unlabeled
from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data.text.data import Texts
from unlabeled.encoders import Unreachable, libraries
from unlabeled.evaluation.features import of_encoder, read
from unlabeled.methods.distillation import Distillation

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TEXTS = ["a small cat sat on the mat", "the dog", "a dog and a cat sat", "cat"]
TIMM = "timm:test_vit.r160_in1k"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that no network fills."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "hub"


def cached(hub: Path, repository: str) -> Path:
    """The folder in the cache that holds the files of a repository of the hub."""
    revision, folder = "0" * 40, hub / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    files = folder / "snapshots" / revision
    files.mkdir(parents=True)
    return files


def normalized(encoder: Any, images: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
    """Images as the library would normalise them, which must be the encoder's statistics too."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (mean, std))
    torch.testing.assert_close(encoder.adapt.mean, mean.flatten())
    return (images - mean) / std


@pytest.fixture
def vit(hub: Path) -> Any:
    """A network of timm whose weights are in the cache."""
    torch.manual_seed(0)
    model: Any = timm.create_model("test_vit")
    save_file(model.state_dict(), cached(hub, "timm/test_vit.r160_in1k") / "model.safetensors")
    return model.eval()


def test_a_network_of_timm_is_built_with_its_weights_and_statistics(vit: Any) -> None:
    encoder: Any = encoders.pretrained(TIMM).eval()
    assert encoder.image_size == 160 and encoder.config["name"] == "test_vit"
    assert encoder.notes == [
        f"{len(vit.state_dict()) - 2} tensors of {TIMM} loaded, head head (1,000 outputs) dropped"
    ]
    images = torch.rand(1, 3, 160, 160)
    vit.reset_classifier(0)
    expected = vit(normalized(encoder, images, [0.5] * 3, [0.5] * 3))
    torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=0)


def test_timm_itself_resamples_positions_and_its_own_transform_prepares_images(vit: Any) -> None:
    encoder: Any = encoders.build("test_vit", image_size=64, weights=TIMM).eval()
    other: Any = timm.create_model("test_vit", pretrained=True, num_classes=0, img_size=64).eval()
    torch.testing.assert_close(encoder(IMAGES), other((IMAGES - 0.5) / 0.5), atol=1e-5, rtol=0)
    assert f"images of 64 pixels; {TIMM} was trained on 160" in encoder.notes
    image = (IMAGES[0] * 255).to(torch.uint8)
    make = encoders.find(TIMM).transform
    assert make is not None
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(vit))  # type: ignore[attr-defined]
    assert torch.equal(make()(image), transform(torchvision.transforms.functional.to_pil_image(image)))


def test_public_weights_teach_a_small_network_at_their_own_size(vit: Any) -> None:
    method = Distillation(encoders.build("conv4", image_size=32), teacher=TIMM)
    vit.reset_classifier(0)
    images = torch.nn.functional.interpolate(IMAGES, 160, mode="bilinear", antialias=True)
    torch.testing.assert_close(method.teacher_features(IMAGES), vit((images - 0.5) / 0.5), atol=1e-5, rtol=0)


def test_a_folder_of_transformers_teaches_grey_images_at_its_own_size(tmp_path: Path) -> None:
    model = tiny("dinov2").eval()
    model.save_pretrained(tmp_path)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    transformers.BitImageProcessor(image_mean=mean, image_std=std, crop_size=32).save_pretrained(tmp_path)
    student = encoders.build("conv4", image_size=16, in_channels=1)
    for name in (str(tmp_path), f"hf:{tmp_path}"):
        method = Distillation(student, teacher=name)
        images = IMAGES[:, :1, :16, :16]
        shown = torch.nn.functional.interpolate(images, 32, mode="bilinear", antialias=True)
        x = (shown - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        expected = model.base_model(pixel_values=x).last_hidden_state[:, 0]
        torch.testing.assert_close(method.teacher_features(images), expected, atol=1e-5, rtol=0)
        assert method.notes == [
            f"the teacher {name} sees views of 32 pixels, resized from 16; grey repeated in 3 channels; normalised by "
            "mean 0.4, 0.5, 0.6 and deviation 0.2, 0.3, 0.4"
        ]


@pytest.mark.parametrize("kind", ["dinov2", "convnext", "vit_mae"])
def test_transformers_reads_images_as_we_do_from_an_exported_folder_alone(kind: str, tmp_path: Path) -> None:
    tiny(kind).save_pretrained(tmp_path / "start")
    size = 64 if kind == "convnext" else 48  # other than the 32 pixels of the positions
    encoder: Any = encoders.build("transformers", weights=tmp_path / "start", image_size=size, in_channels=1)
    encoder.eval().adapt.set_statistics([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    result = unlabeled.export(encoder, tmp_path / "out", format="transformers")
    assert result.difference < 1e-5 and result.note.startswith("its features are model(pixel_values=x")
    model = transformers.AutoModel.from_pretrained(tmp_path / "out").eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    images = (IMAGES[:, :1, :size, :size] * 255).round().to(torch.uint8)
    pictures = [torchvision.transforms.functional.to_pil_image(image) for image in images]
    x = processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        theirs = eval(result.note.removeprefix("its features are "), {"model": model, "x": x})
        torch.testing.assert_close(theirs, encoder(images / 255), atol=1e-4, rtol=1e-4)
    again: Any = encoders.pretrained(tmp_path / "out", in_channels=1).eval()
    torch.testing.assert_close(again(images / 255), encoder(images / 255), atol=1e-5, rtol=1e-5)


def test_networks_of_images_that_transformers_cannot_carry_are_refused(tmp_path: Path) -> None:
    tiny("dinov2").save_pretrained(tmp_path / "start")
    encoder: Any = encoders.build("transformers", weights=tmp_path / "start", image_size=32)
    with pytest.raises(
        UserError, match=r"model that timm has, got transformers .*\. Take transformers, safetensors"
    ):
        unlabeled.export(encoder, tmp_path / "out", format="timm")
    encoder.extend(8)
    with pytest.raises(
        UserError, match=r"on images as they are, got one with layers of a head\. Take safetensors"
    ):
        unlabeled.export(encoder, tmp_path / "out", format="transformers")
    with pytest.raises(UserError, match=r"model of transformers, got conv4\. Take safetensors, timm or onnx"):
        unlabeled.export(encoders.build("conv4"), tmp_path / "new" / "out", format="transformers")
    assert [file.name for file in tmp_path.iterdir()] == ["start"]


def test_a_folder_of_timm_is_read_by_its_config(tmp_path: Path) -> None:
    encoder: Any = encoders.build("test_vit", image_size=64).eval()
    unlabeled.export(encoder, tmp_path / "folder", format="timm")
    again: Any = encoders.pretrained(tmp_path / "folder").eval()
    torch.testing.assert_close(again(IMAGES), encoder(IMAGES), atol=1e-5, rtol=0)


def test_weights_that_a_hub_lacks_are_refused_by_name_of_what_is_missing(vit: Any, hub: Path) -> None:
    state = vit.state_dict()
    del state["blocks.1.norm1.weight"]
    save_file(state, next(hub.rglob("model.safetensors")))
    with pytest.raises(ValueError, match=r"weights must fit test_vit, got timm.*blocks\.1\.norm1\.weight"):
        encoders.pretrained(TIMM)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_a_network_of_torchvision_is_built_with_its_weights(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = torchvision.models.get_model(name)
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1  # type: ignore[attr-defined]
    file = tmp_path / "torch" / "hub" / "checkpoints" / Path(weights.url).name
    file.parent.mkdir(parents=True)
    torch.save(model.state_dict(), file)
    encoder: Any = encoders.pretrained(f"torchvision:{name}.IMAGENET1K_V1", image_size=72).eval()
    model.fc = nn.Identity()
    images = torch.rand(2, 3, 72, 72)
    preset = weights.transforms()
    expected = model.eval()(normalized(encoder, images, preset.mean, preset.std))
    torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=0)
    assert "head fc (1,000 outputs) dropped" in encoder.notes[0]
    encoder.save(tmp_path / "e.safetensors")
    assert torch.equal(encoders.load(tmp_path / "e.safetensors").eval()(images), encoder(images))


def tiny(kind: str) -> Any:
    """A network for images of transformers, with a head."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    if kind == "dinov2":
        config = transformers.Dinov2Config(hidden_size=16, image_size=32, patch_size=16, **sizes)
        return transformers.Dinov2ForImageClassification(config)
    if kind == "convnext":
        shapes = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
        return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**shapes))
    config = transformers.ViTMAEConfig(hidden_size=16, image_size=32, patch_size=16, **sizes)
    return transformers.ViTMAEForPreTraining(config)


@pytest.mark.parametrize("kind", ["dinov2", "convnext", "vit_mae"])
def test_a_network_for_images_of_transformers_is_built_with_its_weights(
    kind: str, hub: Path, tmp_path: Path
) -> None:
    files, model = cached(hub, "someone/network"), tiny(kind).eval()
    model.save_pretrained(files)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    processor = transformers.BitImageProcessor(
        image_mean=mean, image_std=std, crop_size={"height": 32, "width": 32}
    )
    processor.save_pretrained(files)
    encoder: Any = encoders.pretrained("hf:someone/network").eval()
    images, base = IMAGES[:, :, :32, :32], model.base_model
    x = normalized(encoder, images, mean, std)
    if kind == "vit_mae":
        base.config.mask_ratio = base.embeddings.config.mask_ratio = 0.0
    output = base(pixel_values=x)
    expected = output.pooler_output if kind == "convnext" else output.last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(images), expected, atol=1e-5, rtol=0)
    dropped = "head decoder dropped" if kind == "vit_mae" else "head classifier dropped"
    assert dropped in encoder.notes[0]
    assert encoder.maps(x)["last"].shape[2:] == ((1, 1) if kind == "convnext" else (2, 2))
    encoder.save(tmp_path / "e.safetensors")
    assert torch.equal(encoders.load(tmp_path / "e.safetensors").eval()(images), encoder(images))


def text_folder(kind: str, folder: Path) -> tuple[Any, Any]:
    """A network for texts with its tokenizer, as transformers saves them."""
    torch.manual_seed(0)
    names = {
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        **{key: ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] for key in ("roberta", "mpnet")},
    }
    special = names.get(kind, ["<end>"])
    words = [*special, *sorted({word for text in TEXTS for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token=special[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = {
        "bert": ("pad", "unk", "cls", "sep", "mask"),
        **dict.fromkeys(("roberta", "mpnet"), ("cls", "pad", "sep", "unk", "mask")),
    }
    tokens = {f"{role}_token": word for role, word in zip(roles.get(kind, ("bos",)), special)}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **tokens)
    fast.save_pretrained(folder)
    about: dict[str, Any] = {"vocab_size": len(words) + 3}  # as networks are padded to round numbers
    about |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "gpt2":
        model: Any = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**about, bos_token_id=0, eos_token_id=0)
        )
    elif kind == "roberta":
        config = transformers.RobertaConfig(
            **about, max_position_embeddings=18, pad_token_id=1, type_vocab_size=1
        )
        model = transformers.RobertaForMaskedLM(config)
    elif kind == "mpnet":
        config = transformers.MPNetConfig(**about, max_position_embeddings=18, pad_token_id=1)
        model = transformers.MPNetForMaskedLM(config)
    else:
        model = transformers.BertForMaskedLM(transformers.BertConfig(**about, max_position_embeddings=16))
    model.save_pretrained(folder)
    return model.base_model.eval(), fast


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet", "gpt2"])
def test_a_network_for_texts_is_built_with_its_tokenizer(kind: str, tmp_path: Path) -> None:
    model, tokenizer = text_folder(kind, tmp_path)
    encoder: Any = encoders.pretrained(tmp_path, "text").eval()
    assert encoder.length == {"gpt2": 32}.get(kind, 16)
    features = read(lambda batch: of_encoder(encoder)(batch, None), encoder.evaluation_view(Texts(TEXTS)))
    first, last = (["<end>"], []) if kind == "gpt2" else ([tokenizer.cls_token], [tokenizer.sep_token])
    for text, vector in zip(TEXTS, features, strict=True):
        ids = tokenizer.convert_tokens_to_ids([*first, *text.split(), *last])
        expected = model(input_ids=torch.tensor([ids])).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)
    assert "pooler" not in str(encoder.state_dict().keys()) and ("head cls" in encoder.notes[0]) == (
        kind == "bert"
    )
    encoder.write_transformers(tmp_path / "out")
    again: Any = encoders.pretrained(tmp_path / "out", "text").eval()
    x = encoder.inputs(encoder.evaluation_view(Texts(TEXTS)).batch(torch.arange(4)))
    torch.testing.assert_close(again(x), encoder(x), atol=1e-5, rtol=0)


def test_texts_train_on_with_the_names_that_a_tokenizer_has_for_its_special_tokens(tmp_path: Path) -> None:
    text_folder("roberta", tmp_path / "start")
    settings: dict[str, Any] = {"weights": tmp_path / "start", "steps": 2, "batch_size": 4, "quiet": True}
    run = unlabeled.pretrain(
        "bert", Texts(TEXTS * 3), out=tmp_path / "run", **settings, next_sentence=False, holdout=0.0
    )
    assert run.config["settings"]["encoder"] == "transformers" and "encoder" in run.config["chosen"]
    assert run.encoder.special("[MASK]") == 4 and run.encoder.special("[CLS]") == 0  # type: ignore[attr-defined]


def sound_folder(kind: str, folder: Path) -> tuple[Any, Any]:
    """A network for sounds with its feature extractor, as transformers saves them."""
    torch.manual_seed(0)
    about: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    about |= {"conv_dim": (8, 8), "conv_kernel": (10, 4), "conv_stride": (8, 4), "num_conv_pos_embeddings": 4}
    about |= {"num_conv_pos_embedding_groups": 2}
    if kind == "wav2vec2":
        model: Any = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**about, vocab_size=8))
    else:
        about |= {"do_stable_layer_norm": True, "feat_extract_norm": "layer"} if kind == "stable" else {}
        model = transformers.HubertModel(transformers.HubertConfig(**about))
    model.save_pretrained(folder)
    normalize = kind != "stable"
    extractor = transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=normalize)
    extractor.save_pretrained(folder)
    return model.base_model.eval(), extractor


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "stable"])
def test_a_network_for_sounds_is_built_with_its_weights(kind: str, tmp_path: Path) -> None:
    model, extractor = sound_folder(kind, tmp_path)
    encoder: Any = encoders.pretrained(tmp_path, "audio").eval()
    assert encoder.sample_rate == 8000 and ("head lm_head" in encoder.notes[0]) == (kind == "wav2vec2")
    lengths, waveform = torch.tensor([700, 900]), torch.rand(2, 900) - 0.3
    waveform[0, 700:] = 0
    features = encoder((waveform, lengths))
    for sound, length, vector in zip(waveform, lengths.tolist(), features, strict=True):
        x = extractor(sound[:length].numpy(), sampling_rate=8000, return_tensors="pt")["input_values"]
        expected = model(x).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)
    encoder.save(tmp_path / "e.safetensors")
    assert torch.equal(encoders.load(tmp_path / "e.safetensors").eval()((waveform, lengths)), features)


def onnx_of(folder: Path, kind: str) -> Any:
    """A session of onnxruntime for the network of a folder."""
    runtime = pytest.importorskip("onnxruntime")
    path = unlabeled.export(encoders.pretrained(f"hf:{folder}", kind), folder / "x.onnx", format="onnx").path
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda **given: torch.from_numpy(session.run(None, {k: v.numpy() for k, v in given.items()})[0])


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_onnx_reads_padded_texts_as_transformers_reads_each_alone(kind: str, tmp_path: Path) -> None:
    model, _ = text_folder(kind, tmp_path)
    run = onnx_of(tmp_path, "text")
    for lengths in ([7, 2, 5, 1], [16], [3, 16]):
        ids = torch.randint(2, 12, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(1))
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        features = run(input_ids=ids.where(mask, 0), attention_mask=mask.long())
        for row, length, vector in zip(ids, lengths, features, strict=True):
            expected = model(input_ids=row[None, :length]).last_hidden_state.mean(1)[0]
            torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["hubert", "stable"])
def test_onnx_hears_sounds_as_transformers_hears_each_alone(kind: str, tmp_path: Path) -> None:
    model, extractor = sound_folder(kind, tmp_path)
    run = onnx_of(tmp_path, "audio")
    for lengths in ([900, 900], [1700], *([[700, 900, 2100]] if kind == "stable" else [])):
        noise = torch.rand(len(lengths), max(lengths), generator=torch.Generator().manual_seed(1)) - 0.3
        waveform = noise * (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])
        given = {"waveform": waveform} | ({"length": torch.tensor(lengths)} if kind == "stable" else {})
        for sound, length, vector in zip(waveform, lengths, run(**given), strict=True):
            x = extractor(sound[:length].numpy(), sampling_rate=8000, return_tensors="pt")["input_values"]
            expected = model(x).last_hidden_state.mean(1)[0]
            torch.testing.assert_close(vector, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["dinov2", "convnext"])
def test_onnx_sees_images_as_transformers_sees_them(kind: str, tmp_path: Path) -> None:
    model = tiny(kind).eval()
    model.save_pretrained(tmp_path)
    run = onnx_of(tmp_path, "image")
    # DINOv2 skips the interpolation of positions at its own size, at which it is traced; the export says so.
    others = ((2, 3, 64, 64), (2, 3, 64, 96)) if kind == "convnext" else ()
    for shape in ((1, 3, 32, 32), (4, 3, 32, 32), *others):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        output = model.base_model(pixel_values=(images - 0.5) / 0.5)
        vectors = output.pooler_output if kind == "convnext" else output.last_hidden_state[:, 0]
        torch.testing.assert_close(run(images=images), vectors, atol=1e-5, rtol=1e-5)


def test_a_run_starts_from_a_library_and_resumes_without_it(
    vit: Any, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (IMAGES.repeat(6, 1, 1, 1) * 255).to(torch.uint8)
    data[1:] = data[1:].roll(3, 3)
    settings: dict[str, Any] = {"image_size": 32, "batch_size": 4, "out": tmp_path / "run", "holdout": 0.0}
    run = unlabeled.pretrain("rotnet", data, weights=TIMM, steps=1, lr=1e-12, **settings)
    stored = run.config
    assert stored["settings"]["weights"] == TIMM and stored["settings"]["encoder"] == "test_vit"
    assert "encoder" in stored["chosen"] and "head head (1,000 outputs) dropped" in capsys.readouterr().err
    weights = run.encoder.state_dict()["trunk.model.blocks.0.mlp.fc1.weight"]
    torch.testing.assert_close(weights, vit.state_dict()["blocks.0.mlp.fc1.weight"], atol=1e-6, rtol=0)
    next(hub.rglob("model.safetensors")).unlink()
    assert (
        unlabeled.pretrain("rotnet", data, weights=TIMM, steps=2, resume=True, quiet=True, **settings).step
        == 2
    )


def test_damaged_files_and_bad_names_of_repositories_cost_one_line(vit: Any, hub: Path) -> None:
    next(hub.rglob("model.safetensors")).write_bytes(b"no weights")
    for name in (TIMM, "hf:a/b/c"):
        with pytest.raises(UserError, match=f"weights must be readable, got {name}") as e:
            encoders.pretrained(name)
        assert "\n" not in str(e.value)


def test_weights_out_of_reach_cost_one_line(hub: Path) -> None:
    for name in (TIMM, "hf:someone/network"):
        with pytest.raises(
            Unreachable, match=f"or downloadable, got {name} .offline mode is on.; unset HF_HUB_OFFLINE"
        ) as e:
            encoders.pretrained(name)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        ("timm:test_vitt.x", "image", "weights must be of a network that timm has, got timm:test_vitt.x"),
        ("timm:test_vit.x", "image", "weights of test_vit must be one of r160_in1k, got x"),
        ("timm:test_vit", "text", "weights must be of a file or run for encoders of text, got timm:test_vit"),
        ("torchvision:resnet1", "image", "torchvision has, got resnet1; did you mean resnet18"),
        ("torchvision:resnet18.V9", "image", "weights of resnet18 must be one of IMAGENET1K_V1, got V9"),
        ("timn:resnet18", "image", "weights must be timm:NAME, .* got timn:resnet18; did you mean timm"),
        ("{}", "image", "weights must be timm:NAME, .* got the folder .* without config.json"),
        ("hf:{}", "image", "weights must be timm:NAME, .* got the folder .* without config.json"),
        ("timm:{}/x", "text", "weights must be a file or folder that exists, got .*/x"),
    ],
)
def test_bad_names_are_refused_in_one_line(weights: str, kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        libraries.find(weights.format(tmp_path), kind)


def test_networks_of_other_data_and_a_second_network_are_refused(tmp_path: Path) -> None:
    tiny("dinov2").save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"weights must be of a network for text, got .* which takes pixel_values"
    ):
        encoders.pretrained(tmp_path, "text")
    with pytest.raises(ValueError, match=r"encoder must be left out with weights .* got resnet18"):
        encoders.build("resnet18", image_size=72, weights=tmp_path)
    with pytest.raises(ValueError, match="encoder transformers must come with weights"):
        encoders.build("transformers")


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_texts_without_a_tokenizer_are_refused_instead_of_being_unknown(kind: str, tmp_path: Path) -> None:
    text_folder(kind, tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(
        UserError, match=r"weights must come with a tokenizer, such as tokenizer\.json, got .* without one"
    ):
        encoders.pretrained(tmp_path, "text")


def test_channels_that_weights_do_not_take_are_named(tmp_path: Path) -> None:
    tiny("dinov2").save_pretrained(tmp_path / "transformers")
    with pytest.raises(UserError, match="images must have 1 or 3 channels for a network that takes 3, got 5"):
        encoders.pretrained(tmp_path / "transformers", in_channels=5)
    network: Any = encoders.build("test_resnet", image_size=32)
    save_file(network.trunk.model.state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(
        UserError, match=r"must take the 5 channels that input color has, got x\.safetensors, which take 3"
    ):
        encoders.build("test_resnet", image_size=32, in_channels=5, weights=tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"weights must be timm:NAME, .*, got 5, a int"):
        libraries.find(5)


def test_pixels_that_fill_no_patch_are_counted(tmp_path: Path) -> None:
    tiny("dinov2").save_pretrained(tmp_path)
    encoder: Any = encoders.pretrained(tmp_path, image_size=39).eval()
    assert any(note.startswith("the last 7 of 39 pixels on a side fill no patch") for note in encoder.notes)
    images = torch.rand(1, 3, 39, 39)
    changed = images.clone()
    changed[:, :, 32:], changed[:, :, :, 32:] = 0, 0
    assert torch.equal(encoder(images), encoder(changed))
    assert not any("fill no patch" in note for note in encoders.pretrained(tmp_path, image_size=32).notes)


class Command:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_cached_file_of_torchvision_is_not_executed(tmp_path: Path) -> None:
    cache, trace = tmp_path / "torch" / "hub" / "checkpoints", tmp_path / "executed"
    cache.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    (cache / url.rpartition("/")[2]).write_bytes(pickle.dumps(Command(trace), protocol=2))
    with pytest.raises(UserError, match="tensors only, got torchvision:resnet18"):
        encoders.pretrained("torchvision:resnet18")
    assert not trace.exists()


def test_code_of_a_preprocessor_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
    )
    folder, trace = tmp_path / "vit", tmp_path / "executed"
    transformers.ViTModel(config).save_pretrained(folder)
    about = {"image_processor_type": "Other", "auto_map": {"AutoImageProcessor": "other.Other"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    (folder / "other.py").write_text(f"import os\nos.mkdir({str(trace)!r})\nclass Other: ...\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    found = libraries.find(str(folder))
    assert found.transform is not None
    with pytest.raises(UserError, match="preprocessor of transformers"):
        found.transform()
    assert not trace.exists()


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"model_args": {"act_layer": "relu"}}, "test_vit as it is, got .* with model_args"),
        ({"model_args": {"global_pool": "max"}}, "test_vit as it is, got .* with model_args"),
        ({"pretrained_cfg": {"mean": [0.5], "std": [0.5, 0.5, 0.5]}}, "mean and std of"),
        ({"pretrained_cfg": {"mean": None}}, "mean and std of"),
        ({"pretrained_cfg": {"std": [0, 0, 0]}}, "std above 0"),
        ({"pretrained_cfg": {"input_size": [3]}}, "input_size of .* channels, height and width"),
        ({"pretrained_cfg": {"num_classes": "x"}}, "num_classes of .* whole number"),
        ({"pretrained_cfg": "none"}, "pretrained_cfg of .* table"),
    ],
)
def test_configs_that_cannot_be_followed_are_refused(about: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit"} | about))
    with pytest.raises(UserError, match=message):
        libraries.find(str(tmp_path))


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    for name, value in {
        "meta": torch.empty(2, device="meta"),
        "complex": torch.ones(2, dtype=torch.cfloat),
    }.items():
        torch.save({"weight": value}, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match="real numbers, got weight"):
            libraries.find(str(tmp_path / f"{name}.pt")).load({})
