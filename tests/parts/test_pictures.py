"""Pictures: what is red, white or at the bottom where it should be."""

import torch

from unlabeled.parts.pictures import mark, mates, overlay, path, sheet, spectrogram, strip


def test_high_weights_are_red_and_low_ones_leave_the_image():
    weights = torch.zeros(1, 2, 2)
    weights[0, 0, 0] = 1
    image = overlay(torch.full((1, 3, 8, 8), 0.3), weights)[0]
    assert image[0, 0, 0] > 0.9 and image[1:, 0, 0].max() < 0.1
    torch.testing.assert_close(image[:, 7, 7], torch.full((3,), 0.3))


def test_the_mark_is_where_the_colour_differs_from_the_rest():
    cells = torch.zeros(2, 2, 8, 10)
    cells[0, :, 2, 7], cells[1, 0, 6, 1] = torch.tensor([20.0, -10.0]), -15.0
    marked = mark(cells)
    for image, (row, column) in enumerate([(2, 7), (6, 1)]):
        there = marked[image].nonzero().float()
        assert there.mean(0).tolist() == [row, column] and len(there) == 5


def test_a_sheet_shows_all_images_row_by_row_on_white():
    images = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(1, 5, 1, 2, 3) / 10
    picture = sheet(images)
    assert picture.shape == (1, 1, 4, 9)
    assert torch.equal(picture[0, 0, ::2, ::3], torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 1.0]]))


def test_low_pitches_are_at_the_bottom_and_the_extremes_black_and_white():
    bands = torch.tensor([[[-9.0, 0.0], [1.0, 9.0]]])  # two bands, two frames
    picture = spectrogram(bands, -2, 2)
    assert picture.shape == (1, 1, 2, 2)
    assert torch.equal(picture[0, 0], torch.tensor([[0.75, 1.0], [0.0, 0.5]]))
    own = spectrogram(bands)[0, 0]
    assert own[1, 0] == 0 and own[0, 1] == 1
    assert not spectrogram(torch.ones(1, 2, 2)).any()


def test_a_path_is_dark_where_visible_light_where_masked_and_goes_upwards():
    positions = torch.stack([torch.zeros(3), torch.tensor([0.0, 1.0, 2.0])], 1)
    image = path(positions, torch.tensor([True, False, True]), (20, 20))
    assert image.shape == (1, 20, 20)
    dark, light = (image[0] == 0).nonzero(), (image[0] == 0.65).nonzero()
    assert dark[:, 0].min() == 1 and dark[:, 0].max() == 18 and len(dark) == 18 and len(light) == 9
    assert dark[:, 1].max() == 3


def test_strip():
    video = torch.arange(2 * 3 * 4).view(1, 3, 1, 2, 4)
    picture = strip(video)
    assert picture.shape == (1, 1, 2, 12)
    assert torch.equal(picture[0, 0, :, 4:8], video[0, 1, 0])


def test_mates_are_other_images_with_the_same_label_or_grey():
    images = torch.arange(4.0).view(4, 1, 1, 1)
    assert mates(images, torch.tensor([7, 2, 7, 5])).flatten().tolist() == [2, 0.5, 0, 0.5]
