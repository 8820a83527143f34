"""A small network that contrasts views of few numbers."""

import torch
import torch.nn.functional as F

from unlabeled.parts.info_nce import nt_xent
from unlabeled.parts.view_contrast import ViewContrast, fit_head


def test_the_network_keeps_what_views_share_and_drops_what_they_change() -> None:
    torch.manual_seed(0)
    identity, nuisance = torch.randn(400, 3), 3 * torch.randn(4, 400, 5)
    views = torch.cat([identity.expand(4, -1, -1), nuisance], 2)
    head = ViewContrast(8, 8).head
    head.eval()
    before = nt_xent(head(views[0]), head(views[1]), 0.2)
    fit_head(head, views)
    assert not head.training
    with torch.no_grad():
        assert nt_xent(head(views[0]), head(views[1]), 0.2) < 0.7 * before
        first, second = (F.normalize(head(view), dim=1) for view in views[:2])
        nearest = (first @ second.T).argmax(1)
    raw = (F.normalize(views[0], dim=1) @ F.normalize(views[1], dim=1).T).argmax(1)
    right = torch.arange(400)
    assert (nearest == right).float().mean() > 3 * (raw == right).float().mean() + 0.1


def test_few_images_are_enough_to_fit() -> None:
    head = ViewContrast(4, 4).head
    fit_head(head, torch.randn(2, 2, 4))
    assert all(weight.isfinite().all() for weight in head.parameters())
