"""Vision transformers of clips, against a slow loop over cubes."""

import pytest
import torch
from torch import Tensor

from unlabeled import encoders
from unlabeled.encoders.video_vit import NAMES, VideoViT, video_vit
from unlabeled.parts.transformer import positions


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network() -> VideoViT:
    """Cubes of 3 pixels and 2 frames, with biases that are not 0."""
    vit = VideoViT(2, 3, 2, (2, 12, 3))
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return vit.double()


def embedded(vit: VideoViT, clip: Tensor, number: int, grid: tuple[int, int, int]) -> Tensor:
    """The token of a cube of one clip, (channels, frames, height, width), before the blocks."""
    time, row, column = number // (grid[1] * grid[2]), number // grid[2] % grid[1], number % grid[2]
    cube = clip[:, 2 * time : 2 * time + 2, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
    token = torch.stack([(filter_ * cube).sum() for filter_ in vit.embed.weight]) + vit.embed.bias
    return token + positions(grid, vit.dim)[number]


def test_tokens_and_maps_are_those_of_a_slow_loop() -> None:
    vit, clips, grid = network(), torch.randn(2, 2, 4, 6, 9).double(), (2, 2, 3)
    rows = [torch.stack([embedded(vit, clip, number, grid) for number in range(12)]) for clip in clips]
    expected = vit.transformer.states(torch.stack(rows))
    torch.testing.assert_close(vit.tokens(clips), expected[-1])
    torch.testing.assert_close(vit(clips), expected[-1].mean(1))
    assert list(vit.maps(clips)) == list(vit.map_dims) == ["block1", "block2"]
    for found, state in zip(vit.maps(clips).values(), expected):
        torch.testing.assert_close(found, state.view(2, 2, 2, 3, 12).permute(0, 4, 1, 2, 3))


def test_a_token_sees_the_cubes_of_keep_and_no_others() -> None:
    vit, clips = network(), torch.randn(2, 2, 4, 6, 9).double()
    keep = torch.tensor([[0, 7, 10], [11, 3, 5]])
    expected = torch.stack(
        [
            torch.stack([embedded(vit, clip, number, (2, 2, 3)) for number in row])
            for clip, row in zip(clips, keep.tolist())
        ]
    )
    found = vit.tokens(clips, keep)
    torch.testing.assert_close(found, vit.transformer(expected))
    seen = torch.zeros(2, 12, dtype=torch.bool).scatter(1, keep, True).view(2, 1, 2, 2, 3)
    seen = seen.repeat_interleave(2, 2).repeat_interleave(3, 3).repeat_interleave(3, 4)
    assert torch.equal(vit.tokens(torch.where(seen, clips, 100.0), keep), found)


def test_clips_of_any_length_are_read_and_the_last_cube_is_filled_with_the_last_frame() -> None:
    vit, clips = network(), torch.randn(2, 2, 5, 6, 6).double()
    filled = torch.cat([clips, clips[:, :, -1:]], 2)
    torch.testing.assert_close(vit(clips), vit(filled))
    assert vit.maps(clips)["block1"].shape == (2, 12, 3, 2, 2) and vit.grid(4, 6) == (2, 2, 2)
    with pytest.raises(ValueError, match="frames must be a multiple of the 2 of a cube, got 5"):
        vit.grid(5, 6)


def test_an_encoder_sees_the_same_cubes_of_clips_as_of_volumes() -> None:
    encoder = encoders.build("vit3d-tiny", kind="video", image_size=16, frames=4)
    x, keep = torch.rand(2, 4, 3, 16, 16), torch.tensor([[0, 17], [30, 2]])
    assert encoder.is_vit and not encoders.build("conv3d", kind="video").is_vit
    volumes = (x - encoder.adapt.mean.view(3, 1, 1)) / encoder.adapt.std.view(3, 1, 1)
    expected = encoder.trunk.tokens(volumes.transpose(1, 2), keep)
    torch.testing.assert_close(encoder.tokens(x, keep), expected)


def test_names_set_networks_and_cubes_fit_the_clips() -> None:
    sides = {16: 4, 20: 5, 24: 6, 32: 8, 64: 8, 96: 8, 112: 8, 128: 16, 224: 16}
    for size, side in sides.items():
        vit = video_vit("vit3d-tiny", 1, size, 16)
        assert vit is not None and (vit.side, vit.depth) == (side, 2), size
    single = video_vit("vit3d-tiny", 1, 16, 1)
    small = video_vit("vit3d-small-4x1", 3, 32, 8)
    assert single is not None and single.depth == 1
    assert small is not None and (small.side, small.depth, small.dim) == (4, 1, 192)
    blocks, width, _ = NAMES["vit3d-small"]
    assert len(small.transformer.blocks) == blocks and width == 192
    assert video_vit("conv3d", 3, 32, 8) is None and video_vit("vit3d-huge", 3, 32, 8) is None
    with pytest.raises(ValueError, match="image_size must be a multiple of the 8 pixels of a cube, got 17"):
        video_vit("vit3d-tiny", 3, 17, 8)
    with pytest.raises(ValueError, match="at most as many frames as the clips, 2, got vit3d-tiny-4x3"):
        video_vit("vit3d-tiny-4x3", 3, 16, 2)
    fitted = encoders.fitted("vit3d-tiny", videos(), kind="video")
    assert fitted.notes == ["vit3d-tiny reads cubes of 4x4 pixels and 2 frames"]
    assert encoders.fitted("vit3d-tiny-8x2", videos(), kind="video").notes == []


def videos():
    from unlabeled.data.video.data import from_videos

    return from_videos(torch.randint(256, (4, 6, 1, 16, 16), dtype=torch.uint8))
