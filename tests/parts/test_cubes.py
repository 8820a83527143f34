"""Cubes of clips: where each comes from, and back."""

import torch

from unlabeled.parts.cubes import cut, join, pictures, replace


def test_cubes_lie_where_their_number_says_and_join_to_the_clips() -> None:
    clips = torch.rand(2, 6, 3, 8, 12)
    cubes = cut(clips, (2, 2, 3))
    assert cubes.shape == (2, 12, 3, 3 * 4 * 4)
    for number in range(12):
        time, row, column = number // 6, number // 3 % 2, number % 3
        part = clips[:, 3 * time : 3 * time + 3, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(cubes[:, number], part.transpose(1, 2).flatten(2))
    assert torch.equal(join(cubes, (2, 2, 3), 3), clips)
    shown = pictures((2, 2, 3), 3, clip=cubes, other=1 - cubes)
    assert torch.equal(shown["clip"], torch.cat([clips[:, 0], clips[:, 3]], 3)) and len(shown) == 2


def test_replaced_cubes_and_no_others_change() -> None:
    cubes, others = torch.rand(2, 5, 3, 4), torch.rand(2, 2, 3, 4)
    numbers = torch.tensor([[4, 1], [0, 2]])
    expected = cubes.clone()
    for row in range(2):
        for place, number in enumerate(numbers[row]):
            expected[row, number] = others[row, place]
    before = cubes.clone()
    assert torch.equal(replace(cubes, numbers, others), expected) and torch.equal(cubes, before)
    grey = replace(cubes, numbers, 0.5)
    assert bool((grey[0, [1, 4]] == 0.5).all()) and torch.equal(grey[0, [0, 2, 3]], cubes[0, [0, 2, 3]])
