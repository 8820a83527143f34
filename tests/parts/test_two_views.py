"""What methods with two views show."""

import torch

from unlabeled import encoders
from unlabeled.methods.simclr import SimCLR


def test_the_most_similar_view_is_chosen_among_the_second_views_by_projection() -> None:
    torch.manual_seed(0)
    method = SimCLR(encoders.build("conv4", image_size=16), crop=1.0, jitter=0.0, gray=0.0, flip=0.0).eval()
    batch = {"image": (torch.rand(6, 3, 16, 16) * 255).to(torch.uint8)}
    rows = method.pictures(batch)
    assert list(rows) == ["image", "view 1", "view 2", "most similar view 2"]
    torch.testing.assert_close(rows["most similar view 2"], rows["view 2"])  # views that show the same
    shuffled = torch.tensor([1, 2, 3, 4, 5, 0])
    views = rows["view 1"], rows["view 2"][shuffled]
    method.two_views = lambda batch: views  # type: ignore[method-assign]
    torch.testing.assert_close(method.pictures(batch)["most similar view 2"], rows["view 1"])
