"""Whitening and spherical k-means against their definitions and planted atoms."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.parts.dictionary import Dictionary, assign, draw_patches, normalize_contrast, whitening


def correlated(count: int = 4000, numbers: int = 12) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(count, numbers, dtype=torch.float64) @ torch.randn(
        numbers, numbers, dtype=torch.float64
    )


def test_patches_lie_inside_and_are_drawn_from_all_positions() -> None:
    torch.manual_seed(0)
    values = torch.arange(2 * 3 * 5 * 4.0).view(2, 3, 5, 4)
    patches = draw_patches(values, (2, 3), 200)
    possible = [
        values[sample, :, row : row + 2, column : column + 3]
        for sample in range(2)
        for row in range(4)
        for column in range(2)
    ]
    assert {tuple(patch.flatten().tolist()) for patch in patches} == {
        tuple(patch.flatten().tolist()) for patch in possible
    }
    assert (patches[:200, 0] < values[1].min()).all(), "the first ones are of the first image"


def test_patches_of_volumes_have_three_sides() -> None:
    volumes = torch.arange(2 * 1 * 3 * 4 * 4.0).view(2, 1, 3, 4, 4)
    patches = draw_patches(volumes, (3, 4, 4), 1)
    assert torch.equal(patches, volumes)


def test_contrast_of_a_constant_patch_is_zero_and_of_others_one() -> None:
    patches = torch.cat([torch.full((1, 8), 3.7), torch.randn(5, 8)])
    normal = normalize_contrast(patches, 1e-9)
    assert normal[0].abs().max() < 1e-2
    torch.testing.assert_close(normal[1:].mean(1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(normal[1:].var(1, correction=0), torch.ones(5))
    torch.testing.assert_close(normalize_contrast(4 * patches[1:] + 2, 16e-9), normal[1:])


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_whitened_patches_have_the_identity_as_covariance_but_for_eps(eps: float) -> None:
    patches = correlated()
    mean, matrix = whitening(patches, eps)
    white = (patches - mean) @ matrix
    covariance = torch.cov(patches.T, correction=0)
    variances = torch.linalg.eigvalsh(covariance)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(torch.cov(white.T, correction=0)), variances / (variances + eps)
    )
    torch.testing.assert_close(matrix, matrix.T)


def test_each_patch_is_assigned_to_the_atom_of_largest_product_with_either_sign() -> None:
    torch.manual_seed(0)
    patches, atoms = torch.randn(50, 6), F.normalize(torch.randn(9, 6), dim=1)
    indices, products = assign(patches, atoms)
    for patch, index, product in zip(patches, indices, products):
        values = [float(patch @ atom) for atom in atoms]
        best = max(range(9), key=lambda number: abs(values[number]))
        assert best == index and values[best] == pytest.approx(float(product), rel=1e-5)
    flipped, negative = assign(-patches, atoms)
    assert torch.equal(flipped, indices) and torch.equal(negative, -products)


def test_planted_atoms_are_recovered() -> None:
    torch.manual_seed(1)
    basis = torch.linalg.qr(torch.randn(10, 10))[0][:8]
    dictionary = Dictionary(24, 10, eps=0.0, whitening_eps=1.0).train()
    dictionary.whiten = lambda patches: patches  # type: ignore[method-assign]  # k-means alone
    unexplained = torch.ones(())
    for _ in range(30):
        sizes = (1 + torch.rand(2000, 1)) * torch.randn(2000, 1).sign()
        patches = sizes * basis[torch.randint(8, (2000,))] + 0.02 * torch.randn(2000, 10)
        unexplained = dictionary(patches)
    likeness = (basis @ dictionary.atoms.T).abs().amax(1)
    assert (likeness > 0.999).all() and unexplained < 0.01


def test_an_update_matches_the_explicit_sum_of_signed_patches() -> None:
    torch.manual_seed(0)
    dictionary = Dictionary(5, 6, eps=0.1, whitening_eps=0.1, decay=0.25).train()
    first, second = torch.randn(40, 6), torch.randn(40, 6)
    dictionary.begin(first)
    sums = torch.zeros(5, 6)
    for patches in (first, second):
        white, atoms, fresh = dictionary.whiten(patches), dictionary.atoms.clone(), torch.zeros(5, 6)
        lost = 0.0
        for patch in white:
            products = atoms @ patch
            best = int(products.abs().argmax())
            fresh[best] += products[best] * patch
            lost += float(patch.square().sum() - products[best].square())
        sums = 0.25 * sums + fresh
        unexplained = dictionary(patches)
        assert float(unexplained) == pytest.approx(lost / float(white.square().sum()), rel=1e-4)
        torch.testing.assert_close(dictionary.atoms, F.normalize(sums, dim=1), rtol=1e-4, atol=1e-5)


def test_atoms_are_of_length_one_and_none_is_lost_even_with_equal_patches() -> None:
    torch.manual_seed(0)
    dictionary = Dictionary(16, 6, eps=0.1, whitening_eps=0.1).train()
    patches = torch.cat([torch.randn(3, 6).repeat(20, 1), torch.zeros(30, 6)])
    dictionary.begin(patches)
    for _ in range(3):
        dictionary(patches)
    torch.testing.assert_close(dictionary.atoms.norm(dim=1), torch.ones(16))
    assert dictionary.atoms.isfinite().all()


def test_flat_patches_alone_give_finite_atoms() -> None:
    dictionary = Dictionary(4, 6, eps=0.1, whitening_eps=0.1).train()
    dictionary.begin(torch.ones(30, 6))
    assert dictionary(torch.ones(30, 6)).isfinite() and dictionary.atoms.isfinite().all()


def test_nothing_changes_in_evaluation_mode() -> None:
    dictionary = Dictionary(4, 6, eps=0.1, whitening_eps=0.1)
    dictionary.begin(torch.randn(30, 6))
    before = {name: value.clone() for name, value in dictionary.state_dict().items()}
    dictionary.eval()(torch.randn(30, 6))
    assert all(torch.equal(value, before[name]) for name, value in dictionary.state_dict().items())


def test_filters_fold_the_whitening_in_and_unwhitening_undoes_it() -> None:
    torch.manual_seed(0)
    dictionary = Dictionary(7, 6, eps=0.1, whitening_eps=0.1)
    patches = torch.randn(200, 6)
    dictionary.begin(patches)
    normal, white = normalize_contrast(patches, 0.1), dictionary.whiten(patches)
    filters, offsets = dictionary.filters()
    torch.testing.assert_close(normal @ filters.T + offsets, white @ dictionary.atoms.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dictionary.unwhiten(white), normal, rtol=1e-3, atol=1e-4)


def test_an_atom_explains_a_patch_or_its_mirror_image_whichever_is_more_similar() -> None:
    torch.manual_seed(0)
    dictionary = Dictionary(5, 6, eps=0.1, whitening_eps=0.1, decay=0.0).train()
    patches = torch.randn(40, 6)
    dictionary.begin(torch.cat([patches, patches.flip(1)]))
    atoms, sums = dictionary.atoms.clone(), torch.zeros(5, 6)
    for patch in patches:
        both = dictionary.whiten(torch.stack([patch, patch.flip(0)]))
        products = both @ atoms.T
        side, best = divmod(int(products.abs().argmax()), 5)
        sums[best] += products[side, best] * both[side]
    dictionary(patches, patches.flip(1))
    used = sums.norm(dim=1) > 0
    torch.testing.assert_close(dictionary.atoms[used], F.normalize(sums, dim=1)[used], rtol=1e-4, atol=1e-5)


def test_patches_are_drawn_only_from_the_allowed_positions() -> None:
    torch.manual_seed(0)
    values = torch.arange(3 * 1 * 9.0).view(3, 1, 9)
    patches = draw_patches(values, (2,), 200, torch.tensor([8, 1, 3])).view(3, 200, 2)
    starts = [sorted({int(value) for value in sample[:, 0]}) for sample in patches]
    assert starts == [list(range(8)), [9], [18, 19, 20]]
