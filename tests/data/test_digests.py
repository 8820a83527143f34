"""Digests: equal content has equal numbers, in any order, container and place; other content has others."""

import copy
import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from unlabeled.data import Data, from_images, open_data
from unlabeled.data.audio.data import from_waveforms
from unlabeled.data.cameras import from_views
from unlabeled.data.digests import digest, in_one_channel
from unlabeled.data.image.data import Images
from unlabeled.data.text.data import Texts
from unlabeled.data.trajectories import from_trajectories
from unlabeled.data.video.data import from_videos


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def test_digests_depend_on_every_value_on_the_shape_and_on_where_parts_end():
    ones = torch.ones(2, 8, dtype=torch.uint8)
    found = {
        digest(ones),
        digest(ones.view(4, 4)),
        digest(ones.view(16)),
        digest("a", "b"),
        digest(ones, ones),
    }
    for place in range(16):
        changed = ones.clone()
        changed.view(-1)[place] = 2
        found.add(digest(changed))
    assert len(found) == 21
    assert digest(ones) == digest(torch.ones(8, 2, dtype=torch.uint8).T) == digest(ones.numpy())


def test_grey_is_one_channel_wherever_channels_are_equal():
    grey, colour = noise(5, 1, 3, 4), noise(5, 3, 3, 4)
    assert (in_one_channel(grey.expand(-1, 3, -1, -1)) == grey.numpy()).all()
    assert in_one_channel(colour).shape == (5, 3, 3, 4)
    almost = grey.expand(-1, 3, -1, -1).clone()
    almost[4, 2, 2, 3] += 1
    assert in_one_channel(almost).shape == (5, 3, 3, 4)


def test_images_of_all_sizes_and_channels_have_the_numbers_they_have_alone():
    images = [noise(3, 5, 4), noise(1, 6, 6, seed=1).expand(3, -1, -1), noise(3, 2, 9, seed=2)]
    sizes = torch.tensor([image.shape[1:] for image in images])
    flat = torch.cat([image.reshape(-1) for image in images])
    data = Images(flat, sizes, channels=3, name="all", paths=["a", "b", "c"])
    alone = [from_images(image[None].contiguous()).digests().item() for image in images]
    assert data.digests().tolist() == alone and len({*alone}) == 3
    assert alone[1] == from_images(noise(1, 1, 6, 6, seed=1)).digests().item()
    order = torch.tensor([2, 0, 0])
    assert data.subset(order).digests().tolist() == [alone[row] for row in order]


def test_folders_arrays_and_tables_of_equal_pixels_have_equal_digests(tmp_path):
    pixels = noise(6, 3, 7, 5)
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    encoded = []
    for row, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(tmp_path / "folder" / "deep" / f"{row}.png")
        file = io.BytesIO()
        Image.fromarray(image).save(file, "BMP")
        encoded.append(file.getvalue())
    np.savez(tmp_path / "array.npz", images=pixels.permute(0, 2, 3, 1).numpy() / 255)
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": content, "path": None} for content in encoded]},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )
    table.to_parquet(tmp_path / "table.parquet")
    expected = from_images(pixels).digests().tolist()
    for source in ("folder", "array.npz", "table.parquet"):
        assert open_data(tmp_path / source).digests().tolist() == expected, source
    assert open_data(tmp_path / "folder", channels=3).digests().tolist() == expected


def test_how_a_text_is_written_down_does_not_count():
    texts = Texts(["Ein caf\u00e9.\r\nZwei", "Ein cafe\u0301.\nZwei \n", "ein caf\u00e9. Zwei"])
    first, second, third = texts.digests().tolist()
    assert first == second != third


def test_where_sounds_and_videos_are_cut_does_not_count():
    sounds = from_waveforms(torch.rand(4, 900) - 0.5, 8000)
    state = torch.get_rng_state()
    assert (sounds.digests() == sounds.crops(0.01).digests()).all()
    in_16_bits = (sounds.samples * 2**15).round().to(torch.int16)
    assert (sounds.digests() == from_waveforms(in_16_bits.view(4, 900), 8000).digests()).all()
    videos = from_videos(noise(3, 8, 3, 4, 4))
    clips = videos.clips(3)
    assert (clips.digests() == clips.digests()).all() and len(clips.digests().unique()) == len(clips)
    assert videos.spread(8).digests().tolist() == videos.digests().tolist()
    assert (torch.get_rng_state() == state).all()


def test_walks_that_look_alike_from_other_places_differ():
    video, pose = noise(1, 4, 3, 8, 8), torch.zeros(1, 4, 3)
    walks = [from_trajectories({"video": video, "pose": pose + shift}) for shift in (0, 1)]
    assert walks[0].digests() != walks[1].digests()
    assert walks[0].digests() == walks[0].spans(2).digests()


def test_scenes_differ_where_a_camera_does():
    views = noise(2, 2, 3, 3, 8, 8)
    views[1] = views[0]
    scenes = from_views(views)
    assert scenes.digests()[0] == scenes.digests()[1] == scenes.moments(2).digests()[0]
    views[1, 1, 2, 0, 7, 7] += 1
    assert len(from_views(views).digests().unique()) == 2


def test_data_of_ones_own_has_digests_of_its_batches():
    class Own(Data):
        kind, unit = "image", "images"

        def batch(self, index):
            rows = index.tolist()
            image = torch.stack([torch.full((1, 2, 2), row % 3, dtype=torch.uint8) for row in rows])
            return {"image": image, "index": index, "noise": torch.rand(len(rows))}

    digests = Own(name="own", paths=list("abcd")).digests()
    assert digests[0] == digests[3] and len(digests.unique()) == 3


@pytest.mark.parametrize("count", [0, 1])
def test_data_of_few_samples_has_as_many_digests(count):
    part = torch.arange(count)
    for data in (from_images(noise(2, 1, 4, 4)), Texts(["a", "b"]), from_videos(noise(2, 3, 1, 4, 4))):
        digests = data.subset(part).digests()
        assert digests.shape == (count,) and digests.dtype == torch.int64


def test_digests_are_computed_once_carried_by_subsets_and_anew_of_a_copy(monkeypatch):
    data = from_images(noise(5, 1, 4, 4))
    digests = data.digests()
    copied = copy.copy(data)
    copied.pixels = copied.pixels.clone()
    copied.pixels[0] += 1
    changed = copied.digests()
    assert changed[0] != digests[0] and torch.equal(changed[1:], digests[1:])
    monkeypatch.setattr(Images, "_contents", lambda data: pytest.fail("computed again"))
    assert data.digests() is digests
    assert torch.equal(data.subset(torch.tensor([3, 1])).to("cpu").digests(), digests[[3, 1]])
