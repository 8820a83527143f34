"""The code of a dictionary of cubes against a slow loop over cubes."""

import pytest
import torch

from unlabeled import encoders
from unlabeled.encoders.cube_code import CubeCode, cube_code
from unlabeled.parts.dictionary import Dictionary


def network() -> tuple[CubeCode, Dictionary]:
    """With the filters of a dictionary of random atoms."""
    torch.manual_seed(0)
    code = CubeCode(2, 5, 4, 3)
    learner = Dictionary(5, code.numbers, eps=code.eps, whitening_eps=0.1)
    learner.begin(torch.randn(500, code.numbers))
    code.set_filters(*learner.filters())
    return code, learner


def test_the_code_is_normalise_whiten_project_threshold_cube_by_cube_averaged_over_time() -> None:
    code, learner = network()
    clips = torch.randn(2, 2, 5, 12, 12)
    maps = code.maps(clips)["atoms"]
    assert maps.shape == (2, 10, 1, 9, 9)
    for clip, result in zip(clips, maps):
        for row, column in [(0, 0), (3, 8), (8, 2)]:
            codes = []
            for time in range(3):
                cube = clip[:, time : time + 3, row : row + 4, column : column + 4].reshape(1, -1)
                products = learner.atoms @ learner.whiten(cube)[0]
                codes.append((torch.cat([products, -products]) - 0.25).clamp_min(0))
            expected = torch.stack(codes).mean(0)
            torch.testing.assert_close(result[:, 0, row, column], expected, rtol=1e-4, atol=1e-4)
    coarse = maps.view(2, 10, 3, 3, 3, 3).mean((3, 5)).flatten(1)
    torch.testing.assert_close(code(clips).square() - 1e-4, coarse, rtol=1e-4, atol=1e-4)


def test_the_chunk_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    code, _ = network()
    clips = torch.randn(5, 2, 5, 12, 12)
    whole = code(clips)
    monkeypatch.setattr("unlabeled.encoders.cube_code.ENTRIES", 1)
    torch.testing.assert_close(code(clips), whole)


def test_short_clips_repeat_their_last_frame() -> None:
    code, _ = network()
    clips = torch.randn(2, 2, 1, 12, 12)
    torch.testing.assert_close(code(clips), code(clips.expand(-1, -1, 3, -1, -1)))


def test_the_direction_of_time_matters() -> None:
    code, _ = network()
    clips = torch.randn(2, 2, 5, 12, 12)
    assert (code(clips) - code(clips.flip(2))).abs().max() > 0.05


def test_names_set_atoms_and_sizes_that_fit() -> None:
    code = cube_code("cube-dictionary-7", 3, 32, 16)
    assert code is not None and (code.numbers, code.width, code.frames) == (3 * 4 * 36, 6, 4)
    small = cube_code("cube-dictionary-7", 1, 4, 2)
    assert small is not None and (small.width, small.frames) == (2, 2)
    encoder = encoders.build("cube-dictionary-7-8x2", kind="video", image_size=16, frames=4).eval()
    assert encoder.trunk.sides == (2, 8, 8)
    assert encoder(torch.rand(2, 4, 3, 16, 16)).shape == (2, encoder.dim) == (2, 126)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cube-dictionary-7-9x2",
            "cubes must be at most as wide as the frames, 8 pixels, got cube-dictionary-7-9x2",
        ),
        (
            "cube-dictionary-7-4x5",
            "cubes must have at most as many frames as the clips, 4, got cube-dictionary-7-4x5",
        ),
        ("cube-dictionary-0", "encoder of videos must be one of"),
    ],
)
def test_cubes_that_do_not_fit_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoders.build(name, kind="video", image_size=8, frames=4)


def test_a_saved_dictionary_opens_with_the_same_features(tmp_path) -> None:
    encoder = encoders.build("cube-dictionary-7", kind="video", image_size=16, frames=4, in_channels=1).eval()
    encoder.save(tmp_path / "one.safetensors")
    x = torch.rand(2, 4, 1, 16, 16)
    assert torch.equal(encoders.load(tmp_path / "one.safetensors").eval()(x), encoder(x))
