"""Distillation: a soft cross-entropy with known values, a teacher that stays as it is, and a student that follows."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled import encoders, pretrain
from unlabeled.data import open_data
from unlabeled.data.image.data import Images
from unlabeled.methods.distillation import FORMS, Distillation, loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def photos(count: int = 24, size: int = 16) -> Tensor:
    coarse = torch.rand(count, 3, 4, 4)
    return (255 * F.interpolate(coarse, size=size, mode="bilinear")).to(torch.uint8)


def build(data: Images | None = None, name: str = "conv4", **options: Any) -> Distillation:
    method = Distillation(encoders.build(name, image_size=16), **{"teacher": "start"} | options)
    if data is not None:
        method.prepare(data)
    return method


def saved(tmp_path: Path, name: str = "conv4", **config: Any) -> Path:
    path = tmp_path / "teacher.safetensors"
    encoders.build(name, **{"image_size": 16} | config).save(path)
    return path


def test_loss_and_its_gradient_match_a_slow_loop() -> None:
    student, teacher = (
        torch.randn(3, 5).double().requires_grad_(),
        torch.randn(3, 5).double().requires_grad_(),
    )
    value = loss(student, teacher, 0.3)
    value.backward()
    total, gradient = 0.0, torch.zeros(3, 5).double()
    for own, other, row in zip(student.tolist(), teacher.tolist(), gradient):
        wanted = [math.exp(x / 0.3) for x in other]
        given = [math.exp(x / 0.3) for x in own]
        for anchor in range(5):
            p, q = wanted[anchor] / sum(wanted), given[anchor] / sum(given)
            total -= p * math.log(q) / 3
            row[anchor] = (q - p) / 0.3 / 3
    assert value.item() == pytest.approx(total, rel=1e-12)
    torch.testing.assert_close(student.grad, gradient)
    assert teacher.grad is None


def test_equal_answers_cost_the_entropy_and_have_no_gradient() -> None:
    student = torch.randn(4, 6).double().requires_grad_()
    value = loss(student, student.detach().clone(), 0.5)
    value.backward()
    shares = (student.detach() / 0.5).softmax(1)
    assert value.item() == pytest.approx(-(shares * shares.log()).sum(1).mean().item())
    torch.testing.assert_close(student.grad, torch.zeros(4, 6).double(), atol=1e-15, rtol=0)


def test_low_temperatures_target_the_most_similar_anchor() -> None:
    teacher, student = torch.rand(4, 6).double(), torch.rand(4, 6).double()
    scaled = loss(1e-4 * student, 1e-4 * teacher * 1e4, 1e-4)
    assert scaled.item() == pytest.approx(F.cross_entropy(student, teacher.argmax(1)).item(), rel=1e-6)


def test_a_student_with_equal_similarities_is_at_chance() -> None:
    method = build(open_data(photos()), anchors=10)
    assert method.chance(8) == math.log(10)
    assert loss(torch.zeros(3, 10), torch.rand(3, 10), 0.1).item() == pytest.approx(math.log(10))
    assert len(build(open_data(photos(6)), anchors=10).anchors) == 6


def test_the_teacher_never_changes_and_its_outputs_do_not_depend_on_other_samples() -> None:
    data = open_data(photos())
    method = build(data).train()
    assert not method.teacher.training and method.encoder.training
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        method(data.sample(8)).backward()
        optimizer.step()
    for name, value in method.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(weight.grad is None for weight in method.teacher.parameters())
    images = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(method.teacher_vectors(images)[:2], method.teacher_vectors(images[:2]))


def test_method_computes_that_loss_of_cosines_of_centred_features() -> None:
    data = open_data(photos())
    method = build(data, anchors=7, crop=1.0, flip=0.0, temperature=0.2).eval()
    batch = data.batch(torch.arange(5))
    known = method.teacher(method.encoder.inputs(data.sample(7))).detach()
    center = known.mean(0)
    images = batch["image"] / 255
    mine, theirs = method.head(method.encoder(images)), method.teacher(images) - center
    cosines = [F.cosine_similarity(x[:, None], (known - center)[None], dim=2) for x in (mine, theirs)]
    assert method(batch).item() == pytest.approx(loss(*cosines, 0.2).item(), rel=1e-4)
    assert method.metrics["entropy"].item() == pytest.approx(
        loss(cosines[1], cosines[1], 0.2).item(), rel=1e-4
    )


def test_a_smaller_student_learns_from_a_saved_teacher_of_another_size(tmp_path: Path) -> None:
    data = open_data(photos(32))
    method = build(data, teacher=str(saved(tmp_path, "resnet10", image_size=24)))
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        value = method(data.batch(torch.arange(32)))
        value.backward()
        optimizer.step()
        losses.append(value.item() - method.metrics["entropy"].item())
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])


def test_shuffled_similarities_cannot_be_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A negative control: the teacher's vectors are those of other images, shuffled anew in every step."""
    data = open_data(photos(32))
    method = build(data, crop=1.0, flip=0.0)
    vectors = method.teacher_vectors
    monkeypatch.setattr(
        method, "teacher_vectors", lambda images: vectors(images)[torch.randperm(len(images))]
    )
    average = vectors(method.encoder.inputs(data.batch(torch.arange(32)))) @ method.anchors.T
    shares = (average / method.temperature).softmax(1).mean(0)
    floor = -(shares * shares.log()).sum().item()  # the loss of always predicting the mean distribution
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for _ in range(15):
        optimizer.zero_grad()
        values.append(method(data.batch(torch.arange(32))))
        values[-1].backward()
        optimizer.step()
    assert torch.stack(values[-5:]).mean().item() > floor - 0.02


def test_the_teacher_is_a_run_or_a_file_and_its_training_samples_are_recorded(tmp_path: Path) -> None:
    first, second = photos(24), photos(24)
    settings: dict[str, Any] = {"steps": 2, "batch_size": 8, "encoder": "conv4", "quiet": True}
    pretrain("simclr", first, out=tmp_path / "teacher", features="whiten:8", **settings)
    for number, (source, dim) in enumerate((("teacher", 8), ("teacher/encoder.safetensors", 64))):
        out = tmp_path / str(number)
        run = pretrain("distillation", second, out=out, teacher=tmp_path / source, anchors=9, **settings)
        assert run.method.teacher.dim == dim and run.method.anchors.shape == (9, dim)
        both = torch.cat([open_data(first).digests(), open_data(second).digests()])
        assert run.digests is not None and set(run.digests.tolist()) == set(both.tolist())


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (None, f"teacher must be {FORMS}, or start, got none"),
        ("nowhere", f"teacher must be {FORMS}, or start, got nowhere"),
    ],
)
def test_a_teacher_must_be_given(teacher: str | None, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        build(teacher=teacher)
    assert str(refused.value) == message


def test_a_teacher_must_read_images_with_as_many_bands(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="teacher must be an encoder of images with 3 channels, got one with 5"
    ):
        build(teacher=str(saved(tmp_path, in_channels=5)))


@pytest.mark.parametrize("grey", [True, False])
def test_a_teacher_of_colours_sees_grey_in_every_channel_and_one_of_grey_sees_lightness(
    grey: bool, tmp_path: Path
) -> None:
    path = saved(tmp_path, in_channels=3 if grey else 1, image_size=24)
    student = encoders.build("conv4", image_size=16, in_channels=1 if grey else 3)
    method, teacher = Distillation(student, teacher=str(path)), encoders.load(path).eval()
    images = torch.rand(4, 1 if grey else 3, 16, 16)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    shown = torch.cat([images] * 3, 1) if grey else (images * weights).sum(1, keepdim=True)
    shown = F.interpolate(shown, 24, mode="bilinear", antialias=True)
    torch.testing.assert_close(method.teacher_features(images), teacher(shown), atol=1e-5, rtol=1e-5)
    repeated = "grey repeated in 3 channels" if grey else "colours converted to grey"
    half, quarter = (", ".join([number] * (3 if grey else 1)) for number in ("0.5", "0.25"))
    assert method.notes == [
        f"the teacher {path} sees views of 24 pixels, resized from 16; {repeated}; "
        f"normalised by mean {half} and deviation {quarter}"
    ]


def test_pictures_show_what_both_find_most_similar() -> None:
    data = open_data(photos(8))
    shown = build(data).pictures(data.batch(torch.arange(8)))
    for name in ("most similar to the teacher", "most similar to the student"):
        assert not (shown[name] == shown["image"]).flatten(1).all(1).any()


def test_similarities_are_exact_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(photos(8))
    method = build(data)
    teacher, student = (F.normalize(torch.randn(8, method.teacher.dim), dim=1) for _ in range(2))
    monkeypatch.setattr(method, "teacher_vectors", lambda images: teacher)
    monkeypatch.setattr(method, "embed_features", lambda features: student)
    exact = method(data.sample(8))
    with torch.autocast("cpu", torch.bfloat16):
        assert method(data.sample(8)).item() == exact.item()


def test_anchors_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data, method = open_data(photos(10)), build()
    method.prepare(data)
    whole = method.anchors
    monkeypatch.setattr("unlabeled.methods.distillation.CHUNK", 4)
    inputs, sizes = method.encoder.inputs, []
    monkeypatch.setattr(
        method.encoder, "inputs", lambda batch: sizes.append(len(batch["image"])) or inputs(batch)
    )
    method.prepare(data)
    assert sizes == [4, 4, 2]
    torch.testing.assert_close(method.anchors, whole)


def test_a_teacher_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    encoders.build("frames-conv4", kind="video", in_channels=3, image_size=16, frames=2).save(path)
    with pytest.raises(
        ValueError, match="teacher must be an encoder of images with 3 channels, got one of video"
    ):
        build(teacher=str(path))
