"""The protocol: what is measured, on what, and what it must never look at."""

import copy
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from unlabeled import encoders
from unlabeled.data import Data, Skipped, from_images, open_splits
from unlabeled.evaluation import evaluate, logistic, twins
from unlabeled.evaluation.controls import raw, supervised
from unlabeled.evaluation.features import of_encoder, read, standardization
from unlabeled.evaluation.labelled import Labelled
from unlabeled.evaluation.model import frozen
from unlabeled.evaluation.plan import Cell, Request, cells
from unlabeled.evaluation.probe import Settings
from unlabeled.evaluation.probes import finetune
from unlabeled.method import Batch, Method
from unlabeled.reporting import tables
from unlabeled.run import fingerprint, load

pytestmark = pytest.mark.usefixtures("small_networks")


def blobs(samples: int, seed: int, classes: int = 3) -> Data:
    """Images with a bright row, whose height is the class."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 90, (samples, 1, 8, 8), generator=generator)
    labels = torch.arange(samples) % classes
    images[torch.arange(samples), 0, 1 + 2 * labels] += 60
    return from_images(
        images.to(torch.uint8), labels, name="blobs", classes=["low", "middle", "high"][:classes]
    )


TRAIN, TEST = blobs(90, 0), blobs(60, 1)


def conv4(seed: int = 0) -> encoders.Encoder:
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(seed)
        patch.setitem(encoders.image.NAMES, "conv4", partial(encoders.stages.conv4, share=4))
        return encoders.build("conv4", in_channels=1, image_size=8)


ENCODER = conv4()


def test_every_number_stands_beside_its_controls():
    scores = evaluate(ENCODER, (TRAIN, TEST), labels_per_class=[2, "all"], draws=2)
    found = {(r["probe"], r["labels_per_class"], r["features"]) for r in scores}
    rows = ("raw", "whitened", "hog", "random", "rescaled", "kmeans", "unlabeled")
    assert found == {(p, n, f) for p in ("knn", "linear") for n in (2, "all") for f in rows}
    assert {r["detail"] for r in scores if r["probe"] == "knn" and r["features"] == "unlabeled"} == {
        "k=6, T=0.07, centred",
        "k=20, T=0.07, centred",
    }
    assert all(0 <= r["low"] <= r["value"] <= r["high"] <= 1 for r in scores)
    assert {r["draws"] for r in scores if r["labels_per_class"] == 2} == {2}


def test_data_whose_name_is_no_text_is_called_by_its_type():
    with pytest.raises(ValueError, match="must have labels to evaluate on"):
        evaluate(ENCODER, TRAIN.batch(torch.arange(20))["image"], probe="knn", controls=())
    source = [
        (image.numpy(), int(label))
        for image, label in zip(TRAIN.batch(torch.arange(20))["image"], TRAIN.labels)
    ]
    assert evaluate(ENCODER, source, probe="knn", controls=()).about["options"]["source"] == "list"


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    with pytest.raises(
        ValueError, match=r"run must be a run or its folder, .* got Linear; encoders.wrap makes"
    ):
        evaluate(torch.nn.Linear(2, 2), (TRAIN, TEST))
    with pytest.raises(ValueError, match="run must be a folder that pretrain wrote, got "):
        evaluate(tmp_path, (TRAIN, TEST))


def test_a_test_part_without_any_class_of_the_training_part_is_refused():
    test = TEST.subset(TEST.labels == 2)
    train = TRAIN.subset(TRAIN.labels < 2)
    with pytest.raises(
        ValueError, match="must be of classes that have a training label, got blobs with none but high"
    ):
        evaluate(ENCODER, (train, test))


def test_a_training_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        evaluate(ENCODER, (TRAIN, TEST), probe="knn", controls="supervised", steps=0)


def test_controls_can_be_switched_off():
    scores = evaluate(ENCODER, (TRAIN, TEST), probe="knn", controls="none")
    assert [r["features"] for r in scores] == ["unlabeled"]


def test_easy_pixels_are_separated():
    scores = evaluate(ENCODER, (TRAIN, TEST), probe="linear", controls="raw")
    assert min(r["value"] for r in scores) > 0.65, "of three classes"


def test_an_untrained_encoder_is_not_said_to_help():
    train, test = open_splits("digits")
    train, test = train.subset(torch.arange(300)), test.subset(torch.arange(200))
    scores = evaluate(ENCODER, (train, test), labels_per_class=(5, "all"), draws=2, seed=1)
    assert "beats" not in scores.verdict()
    raw = next(
        r for r in scores if (r["probe"], r["features"], r["labels_per_class"]) == ("linear", "raw", 5)
    )
    assert 0.75 < raw["value"] < 0.92


def test_the_encoder_keeps_every_bit_and_its_mode():
    encoder = conv4().train()
    before = copy.deepcopy(encoder.state_dict())
    probes, controls = ("knn", "few", "layers", "finetune"), ("random", "kmeans", "supervised")
    evaluate(encoder, (TRAIN, TEST), probe=probes, controls=controls, labels_per_class=2, draws=1, steps=2)
    assert encoder.training
    assert all(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_the_same_seed_gives_the_same_scores_whatever_was_drawn_before():
    options = {"probe": ("linear", "finetune"), "labels_per_class": 2, "draws": 2, "steps": 3}
    first = evaluate(ENCODER, (TRAIN, TEST), **options)
    torch.rand(7)
    state = torch.get_rng_state()
    assert evaluate(ENCODER, (TRAIN, TEST), **options).records == first.records
    assert torch.equal(torch.get_rng_state(), state)


def test_no_choice_sees_the_test_set():
    wrong = copy.copy(TEST)
    wrong.labels = (TEST.labels + 1) % 3
    honest = evaluate(ENCODER, (TRAIN, TEST), probe="linear")
    planted = evaluate(ENCODER, (TRAIN, wrong), probe="linear")
    assert [r["detail"] for r in honest] == [r["detail"] for r in planted]
    assert honest.best["value"] != planted.best["value"]
    half = evaluate(ENCODER, (TRAIN, TEST.subset(torch.arange(7))), probe="linear")
    assert [r["detail"] for r in honest] == [r["detail"] for r in half]


def test_features_do_not_depend_on_their_batch():
    _, reader = frozen(conv4().train(), torch.device("cpu"))
    whole = read(lambda batch: reader(batch, None), TEST)
    single = read(lambda batch: reader(batch, None), TEST, batch_size=1)
    assert torch.allclose(whole, single, atol=1e-5)


def test_a_method_is_judged_where_its_paper_reads_the_features():
    class FromTheFirstMap(Method):
        def features(self, batch: Batch, layer: str | None = None) -> Tensor:
            return self.encoder.features(self.encoder.inputs(batch), layer or "s1")

    by_method = evaluate(FromTheFirstMap(conv4()), (TRAIN, TEST), probe="linear", controls=())
    by_layer = evaluate(conv4(), (TRAIN, TEST), probe="layers", controls=())
    assert by_method.best["detail"] == by_layer.records[0]["detail"]
    assert by_method.best["value"] == by_layer.records[0]["value"]


def test_layers_probes_every_named_map_beside_its_controls():
    scores = evaluate(ENCODER, (TRAIN, TEST), probe="layers", controls=("raw", "random"))
    assert [r["layer"] for r in scores if r["features"] == "unlabeled"] == [*ENCODER.map_dims, "chosen"]
    assert sum("margin" in r for r in scores) == 2 * len(ENCODER.map_dims) + 2
    assert all(layer in scores.table() for layer in ENCODER.map_dims)


def test_the_layer_is_chosen_on_training_labels():
    """Test labels that are wrong change every accuracy, and never the layer; its score is that of the layer."""
    wrong = copy.copy(TEST)
    wrong.labels = (TEST.labels + 1) % 3
    chosen = []
    for test in (TEST, wrong):
        scores = evaluate(ENCODER, (TRAIN, test), probe="layers", controls="raw")
        ours = {r["layer"]: r for r in scores if r["features"] == "unlabeled"}
        layer, _, how = ours["chosen"]["detail"].partition(", ")
        assert how == "chosen on held-out training labels"
        assert ours["chosen"]["value"] == ours[layer]["value"]
        chosen.append(layer)
        assert "layers chosen: unlabeled" in scores.verdict() and "layers s1" not in scores.verdict()
    assert chosen[0] == chosen[1]


def test_every_draw_chooses_its_layer_and_one_label_each_chooses_none():
    scores = evaluate(ENCODER, (TRAIN, TEST), probe="layers", labels_per_class=[1, 4], draws=2, controls=())
    details = {r["labels_per_class"]: r["detail"] for r in scores if r["layer"] == "chosen"}
    assert details[1] == "s4, the last, as with one label per class nothing can be held out to choose by"
    assert "chosen on held-out training labels" in details[4]


def test_layers_are_judged_on_groups_that_were_held_out():
    """Features that know the group by heart, and nothing else, do not help with another group."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(12).repeat_interleave(10)
    labels = torch.randint(3, (12,), generator=generator)[groups]
    features = torch.eye(12)[groups] + 0.01 * torch.randn(120, 12, generator=generator)
    about = {"statistics": standardization(features)}
    assert logistic.held_out_loss(features, labels, 3, **about) < 0.2
    assert logistic.held_out_loss(features, labels, 3, groups=groups, **about) > 0.9
    assert math.isnan(logistic.held_out_loss(features, labels, 3, groups=torch.zeros(120), **about))


def test_held_out_labels_of_a_class_without_others_do_not_count():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.eye(3)[labels] + 0.1 * torch.randn(60, 3, generator=generator)
    about = {"statistics": standardization(features)}
    expected = logistic.held_out_loss(features, labels, 4, **about)
    # One label of a fourth class, far from all others, which no rest holds where it is held out.
    more, alone = torch.cat([features, torch.full((1, 3), 9.0)]), torch.cat([labels, torch.tensor([3])])
    assert logistic.held_out_loss(more, alone, 4, **about) < expected + 0.3


def test_intervals_of_probes_count_the_groups_of_the_test_data():
    grouped = copy.copy(TEST)
    grouped.groups = torch.arange(60) // 10
    scores = evaluate(ENCODER, (TRAIN, grouped), probe="knn", controls="raw")
    assert {(r["units"], r["counted"], r["samples"]) for r in scores} == {(6, "groups", 60)}
    assert "95 % interval over 6 groups only" in scores.table()
    assert "Intervals of knn rest on 6 groups only." in scores.verdict()
    grouped.groups = torch.zeros(60, dtype=torch.long)
    scores = evaluate(ENCODER, (TRAIN, grouped), probe="knn", controls="raw")
    assert all(r["low"] is None and r.get("margin_low") is None for r in scores)
    assert (
        "knn: unlabeled cannot be judged with all labels" in scores.verdict()
        and "beats" not in scores.verdict()
    )
    assert "no interval, as there is 1 group only" in scores.table()


def test_columns_come_in_the_order_of_their_labels():
    counts = ["all", "50%", 20, "1%", 2]
    scores = evaluate(ENCODER, (TRAIN, TEST), probe="linear", labels_per_class=counts, draws=1, controls=())
    assert [(r["labels_per_class"], r["labels"]) for r in scores] == [
        ("1%", 3),
        (2, 6),
        ("50%", 45),
        (20, 60),
        ("all", 90),
    ]
    assert scores.table().splitlines()[1].split()[-5:] == ["1%", "2", "50%", "20", "all"]
    (table,) = tables.arrange([("run", scores.records)])
    assert table.columns == ["1%", "2", "50%", "20", "all"]


def test_a_percentage_says_what_it_came_to():
    lines = []
    scarce = TRAIN.subset(torch.arange(83))  # 28, 28 and 27 of a class
    scores = evaluate(
        ENCODER,
        (scarce, TEST),
        probe="knn",
        labels_per_class=["1%", "5.5%", 2],
        controls=(),
        draws=2,
        progress=lines.append,
    )
    assert "1% of the labels: 1 of each class, 3 in all" in lines
    assert "5.5% of the labels: 1 to 2 of each class, 5 in all" in lines
    assert scores.about["label_amounts"] == {
        "1%": "1 of each class, 3 in all",
        "5.5%": "1 to 2 of each class, 5 in all",
    }


def test_a_size_must_come_with_what_it_is_for():
    with pytest.raises(
        ValueError, match="size is for the tasks propagation, segmentation, detection, got 40 with"
    ):
        evaluate(ENCODER, (TRAIN, TEST), probe="knn", size=40)


def test_few_is_the_linear_probe_with_numbers():
    scores = evaluate(ENCODER, (TRAIN, TEST), probe="few", controls="raw", draws=2)
    assert {(r["probe"], r["labels_per_class"]) for r in scores} == {
        ("linear", 1),
        ("linear", 10),
        ("linear", "all"),
    }


def test_few_without_numbers_asks_no_more_than_the_rarest_class_has():
    scarce = TRAIN.subset(torch.arange(27))
    scores = evaluate(ENCODER, (scarce, TEST), probe="few", controls=(), draws=2)
    assert [r["labels_per_class"] for r in scores] == [1, "all"]
    with pytest.raises(ValueError, match="got 10: class low has 9"):
        evaluate(ENCODER, (scarce, TEST), probe="few", labels_per_class=(10, "all"))


def test_classes_without_training_samples_hinder_no_probe():
    train, test = copy.copy(TRAIN), copy.copy(TEST)
    train.labels, test.labels = TRAIN.labels + 1, TEST.labels + 1
    train.classes = test.classes = ["none", "low", "middle", "high", "unused"]
    scores = evaluate(ENCODER, (train, test), probe=("knn", "few"), controls="raw", draws=2)
    assert max(r["value"] for r in scores if r["features"] == "raw") > 0.9


def folders(root: Path, classes: Sequence[str], data: Data) -> Path:
    """The images as files in one folder for each class."""
    assert data.labels is not None
    for row, image in enumerate(data.batch(torch.arange(len(data)))["image"]):
        file = root / classes[int(data.labels[row])] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(file)
    return root


def test_test_data_are_the_test_split_where_a_source_has_one():
    train, test = open_splits("digits")
    scores = evaluate(ENCODER, train.subset(torch.arange(50)), test="digits", probe="knn", controls=())
    assert scores.about["test_samples"] == len(test) != len(train)


def test_two_folders_are_opened_and_their_classes_meet_by_name(tmp_path):
    train = folders(tmp_path / "a", ["low", "middle", "high"], TRAIN)
    test = folders(tmp_path / "b", ["low", "middle", "high"], TEST.subset(TEST.labels != 0))
    options = {"probe": "linear", "controls": "raw"}
    pair = evaluate(ENCODER, (train, str(test)), **options)
    assert pair.records == evaluate(ENCODER, train, test=test, **options).records
    assert pair.about["training_samples"] == 90 and pair.about["test_samples"] == 40
    assert min(r["value"] for r in pair) > 0.65


def test_given_data_keep_their_own_numbers_of_classes():
    turned = copy.copy(TEST)
    turned.labels, turned.classes = 2 - TEST.labels, ["high", "middle", "low"]
    before = turned.labels.clone()
    assert evaluate(ENCODER, (TRAIN, turned), probe="linear", controls="raw").best["value"] > 0.65
    assert torch.equal(turned.labels, before) and turned.classes == ["high", "middle", "low"]


def test_scores_name_their_data_and_the_state_of_the_encoder():
    about = evaluate(ENCODER, (TRAIN, TEST), probe="knn", controls=(), seed=3).about
    state = fingerprint(ENCODER.state_dict())
    assert about == {
        "data": "blobs", "training_samples": 90, "test_samples": 60, "encoder": state, "seed": 3,
        "options": {
            "source": "blobs", "probe": ["knn"], "labels_per_class": ["all"], "controls": [], "draws": 5,
            "k": 20, "temperature": 0.07,
        },
    }  # fmt: skip
    other = conv4().state_dict()
    next(iter(other.values())).flatten()[0].add_(1e-6)
    assert fingerprint(conv4().state_dict()) == state != fingerprint(other)


@pytest.mark.parametrize(("samples", "seen"), [(60, True), (48, False)])
def test_test_images_that_pretraining_saw_are_confessed(tmp_path, samples, seen):
    source = folders(tmp_path / "all", ["low", "middle", "high"], TEST)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.toml").write_text(f"method = 'simclr'\n[data]\nsource = '{source}'\nsamples = {samples}")
    ENCODER.save(folder / "encoder.safetensors")
    scores = evaluate(load(folder), source, probe="knn", controls=())
    assert ("pre-trained on these test images too, without their labels." in scores.verdict()) is seen
    assert "note" not in evaluate(ENCODER, source, probe="knn", controls=()).about
    scores.to_json(folder / "scores.json")
    assert load(folder).scores == scores.records


def test_test_frames_that_pretraining_saw_are_confessed(tmp_path, monkeypatch):
    """A scene is one sample of training and many of evaluation."""
    from unlabeled.evaluation.sources import Parts, Source

    read = TRAIN.subset(torch.arange(len(TRAIN)).repeat(3)), TEST.subset(torch.arange(len(TEST)).repeat(3))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.toml").write_text("method = 'simclr'\n[data]\nsource = 'scenes'\nsamples = 120")
    ENCODER.save(folder / "encoder.safetensors")
    monkeypatch.setattr(Source, "open", lambda source: Parts(source, TRAIN, TEST))
    monkeypatch.setattr(
        type(ENCODER), "evaluation_view", lambda _, data: read[0] if data is TRAIN else read[1]
    )
    scores = evaluate(load(folder), "scenes", probe="knn", controls=())
    assert "pre-trained on these test images too" in scores.verdict()


def test_network_of_the_users_own_has_a_random_twin_or_says_why_not():
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3, 5))

        def forward(self, x):
            return x.mean((2, 3)) @ self.weight

    torch.manual_seed(5)
    own = encoders.wrap(torch.nn.Conv2d(3, 6, 3), image_size=16)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    states = [twins.untrained(own, seed).state_dict() for seed in (0, 0, 1)]
    weights = [state["trunk.model.weight"] for state in states]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[1], before["trunk.model.weight"])
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    with pytest.raises(ValueError, match=r"controls must be raw or none .* got trunk.model.weight of Fixed"):
        twins.untrained(encoders.wrap(Fixed(), image_size=16))


def test_finetuning_has_training_from_scratch_beside_it():
    scores = evaluate(ENCODER, (TRAIN, TEST), probe="finetune", labels_per_class=2, draws=2, steps=2)
    assert [r["features"] for r in scores] == ["unlabeled", "supervised"]
    assert all("2 steps" in r["detail"] for r in scores)


def test_supervised_stands_beside_the_probe_on_request():
    scores = evaluate(ENCODER, (TRAIN, TEST), probe="linear", controls=("supervised",), steps=60)
    supervised = next(r for r in scores if r["features"] == "supervised")
    assert supervised["value"] > 0.8


def test_finetuning_at_rate_zero_is_the_linear_probe():
    features = read(lambda batch: of_encoder(ENCODER.eval())(batch, None), TRAIN)
    head = logistic.fit(features, TRAIN.labels, 3)
    tested = read(lambda batch: of_encoder(ENCODER.eval())(batch, None), TEST)
    frozen_norms = copy.deepcopy(ENCODER)
    for module in frozen_norms.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    data, settings = Labelled.of(TRAIN, TEST), Settings(steps=2)
    predicted, _ = finetune.train(
        frozen_norms, data, torch.arange(90), settings, head=head, learning_rate=0.0
    )
    assert torch.equal(predicted, head(tested).argmax(1))


def test_the_random_control_has_the_same_input_statistics_and_other_weights():
    encoder = conv4()
    encoder.adapt.set_statistics([0.3], [0.2])
    fresh = twins.untrained(encoder, seed=5)
    assert torch.equal(fresh.adapt.mean, encoder.adapt.mean)
    assert fresh.config == encoder.config
    own, other = next(encoder.trunk.parameters()), next(fresh.trunk.parameters())
    assert own.shape == other.shape
    assert not torch.equal(own, other)


def test_calibrated_norms_have_the_statistics_of_the_data():
    encoder = twins.untrained(ENCODER)
    twins.calibrate_(encoder, TRAIN)
    seen: list[Tensor] = []
    norm = next(module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    encoder(encoder.inputs(TRAIN.batch(torch.arange(90))))
    assert not encoder.training
    assert seen[0].mean((0, 2, 3)).abs().max() < 1e-3
    assert (seen[0].std((0, 2, 3)) - 1).abs().max() < 0.05


def test_raw_pixels_share_one_scale():
    pixels = raw.make(ENCODER)
    assert pixels.statistics(TRAIN)[1].unique().numel() == 1
    assert pixels.features(TRAIN).shape == (90, 64)


def test_data_without_labels_are_refused():
    bare = from_images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), name="holiday")
    with pytest.raises(ValueError, match="data must have labels to evaluate on, got holiday"):
        evaluate(ENCODER, (bare, TEST))


def test_samples_of_unknown_class_are_left_out_and_said():
    partly = copy.copy(TEST)
    partly.labels = torch.where(torch.arange(60) < 20, -1, TEST.labels)
    scores = evaluate(ENCODER, (TRAIN, partly), probe="knn", controls=())
    assert scores.best["samples"] == 40
    assert "20 of 60 test images have no label and are skipped" in scores.verdict()


def test_a_part_without_labels_is_named():
    bare = copy.copy(TEST)
    bare.labels = None
    with pytest.raises(ValueError, match=r"without any in its test part, such as of blobs\[0\]"):
        evaluate(ENCODER, (TRAIN, bare))
    bare.skipped = [Skipped("x.csv", "no labels: its columns are age, sex; choose one with --label")]
    with pytest.raises(ValueError, match=r"\(no labels: its columns are age, sex; choose one with --label\)"):
        evaluate(ENCODER, (TRAIN, bare))


def test_one_class_alone_is_refused():
    alone = TRAIN.subset(TRAIN.labels == 1)
    with pytest.raises(
        ValueError, match=r"must have at least 2 classes .* 30 labelled training images are all of class"
    ):
        evaluate(ENCODER, (alone, TEST), probe=("knn", "linear"))


def test_a_test_part_of_one_class_or_of_classes_nobody_learnt_is_said():
    scores = evaluate(ENCODER, (TRAIN, TEST.subset(TEST.labels == 1)), probe="knn", controls=())
    assert "all test images are of class" in scores.verdict()
    two = TRAIN.subset(TRAIN.labels != 1)
    scores = evaluate(ENCODER, (two, TEST), probe=("knn", "linear"), controls=())
    assert (
        f"20 of 60 test images count as wrong because their class has no training label ({TEST.classes[1]})"
        in (scores.verdict())
    )
    assert all(record["value"] <= 40 / 60 for record in scores)


@pytest.mark.parametrize("values", [[5, 7, 10**15], [2, 4, 6]])
def test_labels_of_any_size_score_as_class_numbers_do(values):
    plain, spread = (TRAIN, TEST), []
    for data in plain:
        other = copy.copy(data)
        other.classes, other.labels = None, torch.tensor(values)[data.labels]
        spread.append(other)
    expected = evaluate(ENCODER, plain, probe=("knn", "linear"), controls=())
    found = evaluate(ENCODER, tuple(spread), probe=("knn", "linear"), controls=())
    assert [r["value"] for r in found] == [r["value"] for r in expected]


def test_shares_of_the_labels_are_measured_and_shown():
    scores = evaluate(ENCODER, (TRAIN, TEST), probe="knn", controls=(), labels_per_class=["10%", "all", 5])
    assert [record["labels_per_class"] for record in scores] == ["10%", 5, "all"]
    assert " 10% " in scores.table()


def test_other_classes_in_the_test_data_are_refused():
    other = copy.copy(TEST)
    other.classes = ["a", "b", "c"]
    with pytest.raises(ValueError, match="test must have the training data's classes"):
        evaluate(ENCODER, (TRAIN, other))


def test_too_few_labels_are_refused_before_anything_is_computed():
    given = []
    few = TRAIN.subset(torch.arange(90)[(torch.arange(90) % 3 > 0) | (torch.arange(90) < 9)])
    said = "got 4: class low has 3; --labels-per-class 3 or all takes every class"
    with pytest.raises(ValueError, match=said):
        evaluate(ENCODER, (few, TEST), probe=("outliers", "knn"), labels_per_class=(2, 4), save=given.append)
    assert not given
    with pytest.raises(ValueError, match="class low has 30, class middle has 30, class high has 30; "):
        evaluate(ENCODER, (TRAIN, TEST), labels_per_class=31)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"probe": "svm"},
            "probe must be one of few, .*, layers, linear, mahalanobis, nonlinear, .*, alignment, .*, got svm",
        ),
        (
            {"controls": ["noise"]},
            "controls must be one of .*random, raw, rescaled.*, default, baselines, all, got noise",
        ),
        (
            {"labels_per_class": 0},
            "labels_per_class must be whole numbers above 0, percentages such as 1% or all, got 0",
        ),
        ({"labels_per_class": 1.5}, "got 1.5"),
        ({"draws": 0}, "draws must be at least 1"),
    ],
)
def test_a_bad_value_is_refused_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        evaluate(ENCODER, (TRAIN, TEST), **options)


def test_features_that_are_not_finite_are_refused():
    broken = conv4()
    next(broken.trunk.parameters()).data.fill_(torch.nan)
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity for 90 of 90"):
        evaluate(broken, (TRAIN, TEST), controls=())


def test_two_classes_and_one_rare_are_measured():
    rare = TRAIN.subset(torch.cat([torch.arange(0, 90, 3), torch.tensor([1, 4])]))
    scores = evaluate(ENCODER, (rare, TEST), probe=("knn", "linear"), controls="raw")
    assert all(0 <= r["value"] <= 1 for r in scores)


def test_the_plan_measures_nothing_twice():
    request = Request(["linear", "few", "factors"], [], [1, "all"], 5, Settings(), None)
    assert cells(request, ENCODER, 50) == [Cell("linear", None, 1), Cell("linear", None, "all")]


def test_progress_is_one_line_for_each_probe():
    lines: list[str] = []
    evaluate(
        ENCODER,
        (TRAIN, TEST),
        probe=("knn", "layers", "linear"),
        labels_per_class=(1, "all"),
        draws=1,
        controls="raw",
        progress=lines.append,
    )
    assert lines == [f"{probe} with 1, all labels per class" for probe in ("knn", "layers", "linear")]


def test_supervised_is_trained_once_for_each_number_of_labels_and_compared_on_that_draw(monkeypatch):
    trained = []

    def train(encoder, data, rows, settings):
        trained.append(rows)
        return torch.zeros(len(data.answers), dtype=torch.long), "a stand-in"

    monkeypatch.setattr(supervised.finetune, "train", train)
    lines = []
    scores = evaluate(
        ENCODER, (TRAIN, TEST), labels_per_class=[2, 5], controls="supervised", draws=3, progress=lines.append
    )
    draws = [Labelled.of(TRAIN, TEST).draw(count, 3, 0)[0] for count in (2, 5)]
    assert len(trained) == 2 and all(map(torch.equal, trained, draws))
    assert "supervised with 2 labels per class" in lines
    assert {r["draws"] for r in scores if r["features"] == "supervised"} == {1}
    assert "first draw of the labels only" in scores.verdict()
    first = evaluate(ENCODER, (TRAIN, TEST), labels_per_class=2, controls="supervised", draws=1)
    margins = [
        next(r["margin"] for r in s if r["features"] == "supervised" and r["labels_per_class"] == 2)
        for s in (scores, first)
    ]
    assert margins[0] == margins[1]


def test_labels_that_tell_when_to_stop_are_of_the_training_part_and_no_class_lacks_in_either(monkeypatch):
    data, seen = Labelled.of(TRAIN, TEST), []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        held_out = finetune._held_out(data.labels, torch.arange(10, 90))
    assert len(held_out) == 15 and set(held_out.tolist()) < set(range(10, 90))
    assert data.labels[held_out].unique(return_counts=True)[1].min() == 5
    assert not len(finetune._held_out(data.labels, torch.arange(12)))  # four of each class
    step = finetune.Training.step
    monkeypatch.setattr(
        finetune.Training, "step", lambda self, rows, factor: (seen.append(rows), step(self, rows, factor))
    )
    monkeypatch.setattr(finetune.Training, "errors", lambda self, rows: (0.5, 0.5))
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "UNCHECKED_STEPS", 2)
        _, words = finetune.train(conv4(), data, torch.arange(64), Settings())
    assert words.startswith("2 steps,")  # one batch is too little to hold some of it out
    seen.clear()
    _, words = finetune.train(conv4(), data, torch.arange(90), Settings())
    assert words.startswith(
        "88 steps, the last 40 with all labels"
    )  # four looks of 12 steps: nothing was gained
    before, after = (set(torch.cat(part).tolist()) for part in (seen[:48], seen[48:]))
    assert len(before) == 72 and after == set(range(90))


def test_test_labels_decide_nothing_of_a_training(monkeypatch):
    monkeypatch.setattr(finetune, "LEAST_STEPS", 40)
    wrong = copy.copy(TEST)
    wrong.labels = (TEST.labels + 1) % 3
    first, second = (
        finetune.train(conv4(), Labelled.of(TRAIN, test), torch.arange(90), Settings())
        for test in (TEST, wrong)
    )
    assert first[1] == second[1] and torch.equal(first[0], second[0])


def test_every_column_is_given_away_as_it_comes_and_the_last_time_is_the_result():
    given = []
    scores = evaluate(
        ENCODER, (TRAIN, TEST), labels_per_class=[2, "all"], controls="raw", draws=2, save=given.append
    )
    assert [len(one) for one in given] == [2, 4, 6, 8]
    assert all(one.about["unfinished"] for one in given) and "unfinished" not in scores.about
    assert given[-1].records == scores.records
    end = "everything was measured; not measured: knn with all labels; linear with 2, all labels per class."
    assert given[0].verdict().endswith(end)
    assert given[-1].verdict().endswith("stopped before everything was measured.")


def test_what_an_interruption_left_out_is_named_and_no_probe_lacks_what_another_has(monkeypatch):
    def train(encoder, data, rows, settings):
        if len(rows) > 6:
            raise KeyboardInterrupt
        return data.answers, "a stand-in that is right"

    monkeypatch.setattr(supervised.finetune, "train", train)
    given = []
    with pytest.raises(KeyboardInterrupt):
        options = {"labels_per_class": [2, 5], "controls": ["raw", "supervised"], "draws": 1}
        evaluate(ENCODER, (TRAIN, TEST), **options, save=given.append)
    said = str(given[-1])
    assert "Controls of knn with 5 labels per class and linear with 5 labels per class: raw input." in said
    assert len(re.findall(r"(?m)^supervised, same labels .*100.0 .*not measured$", said)) == 2
    assert "not measured: supervised, same labels of knn and linear with 5 labels per class." in said


@pytest.mark.parametrize(
    ("task", "kind"), [("few_shot", "text"), ("retrieval", "audio-visual"), ("abx", "audio")]
)
def test_a_task_refuses_encoders_of_other_kinds_in_one_line(task, kind):
    message = f"probe must be one for encoders of kind image, got {task}, which is for {kind}"
    with pytest.raises(ValueError, match=message):
        evaluate(encoders.build("conv4", image_size=8, in_channels=1), "digits", probe=task, device="cpu")
