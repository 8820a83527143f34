"""Public weights: read as their own library reads them, beside every probe, and what to do with them by the scores."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from torchvision.transforms.functional import to_pil_image

import unlabeled
from unlabeled import encoders
from unlabeled.check import UserError
from unlabeled.data import from_images
from unlabeled.data.audio.data import from_waveforms
from unlabeled.data.text.data import Texts
from unlabeled.evaluation import Scores, evaluate
from unlabeled.evaluation.controls import public
from unlabeled.evaluation.features import Representation, of_encoder, read
from unlabeled.evaluation.measurement import Measurement
from unlabeled.evaluation.starting_weights import CONTINUE, SCRATCH, choices, of
from unlabeled.parts.resample import resample

CONV = encoders.build("conv4", image_size=8)
LABELS = torch.arange(12) % 2
NOISE = torch.Generator().manual_seed(0)
IMAGES = torch.randint(256, (12, 3, 24, 40), generator=NOISE).to(torch.uint8)


def made(*arguments: Any, **options: Any) -> Representation:
    control = public.make(*arguments, **options)
    assert control is not None
    return control


@pytest.mark.parametrize("channels", [3, 1])
def test_images_are_prepared_as_the_library_prepares_them(channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("test_resnet", num_classes=0).eval()
    statistics = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    config = {
        **model.pretrained_cfg,
        **statistics,
        "crop_pct": 0.8,
        "input_size": (3, 32, 32),
        "num_classes": 0,
    }
    timm.models.save_for_hf(model, tmp_path, model_config={"pretrained_cfg": config})  # type: ignore[attr-defined]
    prepare: Any = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))  # type: ignore[attr-defined]
    encoder, images = encoders.build("conv4", image_size=16, in_channels=channels), IMAGES[:4, :channels]
    control = made(encoder, from_images(images), weights=tmp_path)
    with torch.no_grad():
        rows = [model(prepare(to_pil_image(image.expand(3, -1, -1)))[None])[0] for image in images]
    torch.testing.assert_close(control.features(from_images(images)), torch.stack(rows), atol=1e-5, rtol=0)
    assert control.encoder is None and control.detail.endswith("frozen, images of 32 pixels")


def test_padding_of_images_of_other_sizes_is_not_seen() -> None:
    sizes = torch.tensor([[24, 40], [20, 30]])
    seen: list[tuple[int, ...]] = []

    def preprocess(image: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(image.shape))
        return torch.zeros(3, 4, 4)

    assert public.prepared({"image": IMAGES[:2], "size": sizes}, preprocess).shape == (2, 3, 4, 4)
    assert seen == [(3, 24, 40), (3, 20, 30)]


def test_images_of_more_bands_have_no_public_weights(tmp_path: Path) -> None:
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path)  # type: ignore[attr-defined]
    encoder = encoders.build("conv4", image_size=16, in_channels=5)
    data = from_images(torch.zeros(2, 5, 16, 16, dtype=torch.uint8))
    assert public.make(encoder, data, weights=tmp_path) is None


def test_texts_are_read_by_the_tokenizer_of_the_weights(tmp_path: Path) -> None:
    words = Texts(["a red tree", "the sun and the moon", "green"] * 4, labels=LABELS)
    other = encoders.fitted("bert-tiny", Texts(["sun moon tree", "quite other words"]), kind="text")
    other.write_transformers(tmp_path)  # type: ignore[attr-defined]
    own = encoders.fitted("gpt-tiny", words, kind="text")
    control = made(own, own.evaluation_view(words), weights=tmp_path)
    expected = read(lambda batch: of_encoder(other.eval())(batch, None), other.evaluation_view(words))
    torch.testing.assert_close(control.features(own.evaluation_view(words)), expected, atol=1e-5, rtol=0)


def test_sounds_are_brought_to_the_sample_rate_of_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    other: Any = encoders.build("wav2vec2-tiny", kind="audio", sample_rate=8000).eval()
    other.write_transformers(tmp_path)
    sounds = torch.rand(2, 4000, generator=NOISE) - 0.5
    own = encoders.build("audio-conv", kind="audio", sample_rate=4000)
    data = from_waveforms(sounds, 4000)
    control = made(own, own.evaluation_view(data), weights=tmp_path)
    features = control.features(own.evaluation_view(data))
    model: Any = transformers.AutoModel.from_pretrained(tmp_path).eval()
    for sound, vector in zip(sounds, features, strict=True):
        x = resample(sound, 4000, 8000)
        x = (x - x.mean()) / (x.var(correction=0) + 1e-7).sqrt()
        with torch.no_grad():
            expected = model(x[None]).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(vector, expected, atol=1e-3, rtol=0)  # sounds are kept in 16 bits


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that started from the weights of a file beside it."""
    folder = tmp_path_factory.mktemp("started")
    CONV.save(folder / "start.safetensors")
    settings: dict[str, Any] = {
        "encoder": "conv4",
        "image_size": 8,
        "batch_size": 4,
        "quiet": True,
        "holdout": 0.0,
    }
    start = folder / "start.safetensors"
    unlabeled.pretrain("simclr", IMAGES, weights=start, steps=2, lr=0.1, out=folder / "run", **settings)
    return folder


def test_a_run_that_started_from_weights_stands_beside_them_as_they_were(started: Path) -> None:
    data = from_images(IMAGES, LABELS), from_images(IMAGES.flip(3), LABELS)
    scores = evaluate(started / "run", data, probe="linear", controls="default", labels_per_class=1, draws=1)
    control = next(record for record in scores if record["features"] == "public")
    assert control["detail"].startswith("start.safetensors, frozen") and "margin" in control
    assert scores.about["public"] == {"weights": str(started / "start.safetensors"), "ours": CONTINUE}
    assert f"These weights: {started / 'start.safetensors'}." in scores.verdict()
    (alone,) = evaluate(CONV.eval(), data, probe="linear", controls="none", labels_per_class=1, draws=1)
    assert control["value"] == alone["value"]


def test_weights_out_of_reach_leave_their_row_out_with_one_line(started: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    lines: list[str] = []
    scores = evaluate(
        started / "run", (from_images(IMAGES, LABELS),) * 2, probe="knn", controls="raw",
        public_weights="hf:nobody/nothing", progress=lines.append,
    )  # fmt: skip
    assert {record["features"] for record in scores} == {"raw", "unlabeled"}
    said = [line for line in lines if "public" in line]
    assert len(said) == 1 and said[0].startswith(
        "the control public is skipped: weights must be in the cache or download"
    )


def test_weights_of_colours_beside_a_run_on_grey_images_see_grey_in_every_channel(started: Path) -> None:
    grey, start = IMAGES[:, :1], started / "start.safetensors"
    settings: dict[str, Any] = {"batch_size": 4, "quiet": True, "holdout": 0.0, "steps": 1, "lr": 1e-12}
    run = unlabeled.pretrain("rotnet", grey, weights=start, out=started / "grey", **settings)
    control = made(run.encoder, from_images(grey), weights=start)
    whole = Representation("colour", of_encoder(CONV.eval()))
    expected = whole.features(from_images(grey.expand(-1, 3, -1, -1).contiguous()))
    torch.testing.assert_close(control.features(from_images(grey)), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(run.encoder.config["network_channels"], 3)


def test_public_without_weights_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"public_weights must name the weights of the control public, .* got none"
    ):
        evaluate(CONV, (from_images(IMAGES, LABELS),) * 2, controls="public")


def test_what_ours_is_beside_the_weights(started: Path) -> None:
    run = unlabeled.load(started / "run")
    start = str(started / "start.safetensors")
    assert of(run, None) == of(run, start) == (start, CONTINUE)
    assert of(run, "timm:resnet18") == ("timm:resnet18", None)  # it started from others
    run.config["settings"].pop("weights")
    assert of(run, "timm:resnet18") == ("timm:resnet18", SCRATCH)


def scored(probe: str, shares: dict[str, float], layer: str | None = None, **more: Any) -> Scores:
    """Scores of 400 test samples, a share of which each row has right."""
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
    right = {
        name: (order.roll(37 * n) < 400 * share)[None].float()
        for n, (name, share) in enumerate(shares.items())
    }
    about: dict[str, Any] = {"layer": layer, "labels_per_class": "all"} | more
    return Scores.of([Measurement(probe, name, values, **about) for name, values in right.items()])


FROZEN = "frozen features of this run with those of these weights as they are"
TUNED = "this run with these weights, both fine-tuned on the same labels"
FROM_RANDOM = ", and the same network trained on these labels from random weights"
CONTINUED, DIRECTLY = (
    "continue from these weights without labels, ",
    "fine-tune these weights directly, without this",
)
ASIS, LABELS_ALONE = "use these weights as they are, frozen", "train from random weights on the labels alone"


@pytest.mark.parametrize(
    ("probe", "ours", "shares", "advice"),
    [
        ("linear", CONTINUE, (0.9, 0.6), f"{CONTINUED}and keep the features frozen"),
        ("finetune", CONTINUE, (0.9, 0.6), f"{CONTINUED}then fine-tune"),
        ("linear", CONTINUE, (0.6, 0.9), ASIS),
        ("finetune", CONTINUE, (0.6, 0.9), f"{DIRECTLY} run"),
        (
            "linear",
            SCRATCH,
            (0.9, 0.6),
            "pre-train from scratch without labels, and keep the features frozen",
        ),
        ("finetune", SCRATCH, (0.9, 0.6), "pre-train from scratch without labels, then fine-tune"),
        ("linear", SCRATCH, (0.6, 0.9), ASIS),
        ("linear", CONTINUE, (0.6, 0.61), "no recommendation beyond noise"),
        ("linear", CONTINUE, (0.7, 0.5, 0.9), LABELS_ALONE),
        ("linear", SCRATCH, (0.7, 0.5, 0.9), LABELS_ALONE),
        ("linear", CONTINUE, (0.9, 0.5, 0.7), f"{CONTINUED}and keep the features frozen"),
        ("finetune", CONTINUE, (0.9, 0.5, 0.89), "no recommendation beyond noise"),
        ("linear", CONTINUE, (0.5, 0.9, 0.7), ASIS),
        ("linear", CONTINUE, (0.5, 0.9, 0.89), "no recommendation beyond noise"),
        ("finetune", CONTINUE, (0.5, 0.51, 0.9), LABELS_ALONE),
        ("linear", CONTINUE, (0.5, 0.7, 0.9), LABELS_ALONE),
    ],
)
def test_the_advice_says_what_was_compared_and_what_scores_best_beyond_noise(
    probe: str, ours: Any, shares: tuple[float, ...], advice: str
) -> None:
    scores = scored(probe, dict(zip(("unlabeled", "public", "supervised"), shares)))
    first, compared, last, *more = choices(scores.records, {"public": {"weights": "timm:x", "ours": ours}})
    with_scratch = len(shares) == 3
    assert first == "These weights: timm:x."
    tuned = probe == "finetune"
    assert compared == f"{probe} compares {TUNED if tuned else FROZEN}{FROM_RANDOM if with_scratch else ''}."
    assert last == f"{probe}: {advice} with all labels."
    assert [("--controls default,supervised adds it" in line) for line in more] == [True] * (not with_scratch)


def test_tasks_say_whether_they_trained_the_weights_and_judge_their_main_score_once() -> None:
    shares = {"unlabeled": 0.9, "public": 0.5}
    parts = [
        *scored("detection", shares, "all layers", unit="mAP").records,
        *scored("detection", shares, "all layers", unit="mAP50").records,
        *scored("detection", shares, "frozen", unit="mAP").records,
        *scored("layers", shares, "s1").records,
    ]
    lines = choices(parts, {"public": {"weights": "timm:x", "ours": CONTINUE}})
    assert lines == [
        "These weights: timm:x.",
        f"detection all layers compares {TUNED}.",
        f"detection all layers: {CONTINUED}then fine-tune with all labels.",
        f"detection frozen compares {FROZEN}.",
        f"detection frozen: {CONTINUED}and keep the features frozen with all labels.",
    ]
