"""Audio-visual correspondence: tell whether a sound was heard when a picture was seen.

Withheld: whether picture and sound belong together. Predicted: that, from their distance in a space in which
both are directions, or from how well the best place of the picture fits the sound.

Source: Arandjelović, Zisserman, "Objects that Sound", 2018, https://arxiv.org/abs/1712.06651; the task is from
Arandjelović, Zisserman, "Look, Listen and Learn", 2017, https://arxiv.org/abs/1705.08168
Differs: spectrograms are in mel bands. With pool "location" both networks of the paper are one: the whole picture,
from all maps, and its places, from a map of stride 4, meet the same sounds and their losses are averaged. Places are
directions too, and their product with a sound is scaled by 8, less 4, at the start, where the paper's plain product
of small vectors is a saddle that many runs never leave. Each pair is held against 8 sounds that do not belong to it
by default, where the paper has one; positives and negatives weigh alike. A batch norm without scale stands before
both are brought to length 1, else all directions start out alike. The networks are small ones with a largest value
over places. The weights move by the loop's AdamW.
Shortcut: sounds of pairs that do not belong together must start on the same grid of frame times as the others,
else traces of compression tell them apart; here each is the sound of another clip of the batch around its own
frame. Fades that darken picture and sound together remain, and things that always make the same noise.
"""

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import einsum, repeat
from torch import Tensor, nn

from unlabeled import check
from unlabeled.check import UserError
from unlabeled.method import Batch, Method, Pictures
from unlabeled.parts.augment import Views
from unlabeled.parts.precision import full_precision

if TYPE_CHECKING:
    from unlabeled.data import Data

__all__ = ["AudioVisualCorrespondence", "Distance", "Places", "others"]


METRICS = {"whole": "accuracy", "places": "places"}


def others(index: Tensor, negatives: int) -> tuple[Tensor, Tensor]:
    """Draw for each sample other samples of the batch, whose sounds it is to be told from.

    Args:
        index: Clip of each sample, int64, shape (batch,).
        negatives: Others for each, below the batch size.

    Returns:
        Places in the batch, int64, shape (batch, negatives), in each column another order of all samples; and
        which of them are of another clip, bool, same shape.
    """
    batch = len(index)
    shifts = 1 + torch.randperm(batch - 1)[:negatives].to(index.device)
    order = torch.randperm(batch).to(index.device)
    place = order.argsort()
    chosen = order[(place[:, None] + shifts) % batch]
    return chosen, index[chosen] != index[:, None]


@full_precision
def loss(logits: Tensor, together: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy of a yes or no, in which both answers weigh the same.

    Args:
        logits: Of yes, float, any shape.
        together: Whether yes is right, bool, same shape.
        counted: Which pairs count, bool, same shape.

    Returns:
        Mean of the mean over those that belong together and the mean over the others, scalar, in nats; ln 2 for
        one who always says maybe.
    """
    errors = F.binary_cross_entropy_with_logits(logits, together.to(logits.dtype), reduction="none")
    halves = [(errors * part).sum() / part.sum().clamp(min=1) for part in (together, ~together & counted)]
    return torch.stack(halves).mean()


def fits(places: Tensor, sounds: Tensor) -> Tensor:
    """How well each place of a picture fits its sound.

    Args:
        places: Directions, float, shape (batch, dim, rows, columns).
        sounds: Directions, float, shape (batch, dim).

    Returns:
        Cosines, float, shape (batch, rows, columns).
    """
    return einsum(places, sounds, "batch dim rows columns, batch dim -> batch rows columns")


def overlaid(images: Tensor, maps: Tensor) -> Tensor:
    """Pictures in grey with what fits in red.

    Args:
        images: Float in 0..1, shape (batch, channels, height, width).
        maps: Cosines, float, shape (batch, rows, columns); below 0 nothing is shown.

    Returns:
        Float in 0..1, shape (batch, 3, height, width).
    """
    gray = repeat(images.mean(1), "batch height width -> batch rgb height width", rgb=3)
    fits = F.interpolate(maps[:, None], size=images.shape[2:], mode="bilinear").clamp(0, 1)
    red = torch.tensor([1.0, 0.1, 0.0], device=images.device)[:, None, None]
    return torch.lerp(0.6 * gray, red.expand_as(gray), fits)


def shown_sound(spectrograms: Tensor, size: int) -> Tensor:
    """Spectrograms as pictures, high pitches on top.

    Args:
        spectrograms: Float with mean 0 and deviation 1, shape (batch, 1, bands, frames).
        size: Side of the pictures in pixels.

    Returns:
        Float in 0..1, shape (batch, 1, size, size).
    """
    return F.interpolate((spectrograms.flip(2) / 6 + 0.5).clamp(0, 1), size=(size, size), mode="bilinear")


class Distance(nn.Module):
    """From the distance of two directions to yes or no, by two weights and two biases.

    At the start yes and no are equally likely at distance 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[2.0], [-2.0]]))
            self.layer.bias.copy_(torch.tensor([-2.0, 2.0]))

    def forward(self, pictures: Tensor, sounds: Tensor) -> Tensor:
        """Logits of yes, float, shape (batch, others).

        Args:
            pictures: Directions, float, shape (batch, dim).
            sounds: Directions, float, shape (batch, others, dim).
        """
        squares = (pictures[:, None] - sounds).square().sum(2)
        distances = (squares + 1e-12).sqrt()  # the root of 0 has no slope
        answers = self.layer(distances[..., None])
        return answers[..., 1] - answers[..., 0]


class Places(nn.Module):
    """From the place that fits a sound best to yes or no, by a scale and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.bias = nn.Parameter(torch.tensor(-4.0))

    def forward(self, pictures: Tensor, sounds: Tensor) -> Tensor:
        """Logits of yes, float, shape (batch, others).

        Args:
            pictures: A direction for each place, float, shape (batch, dim, rows, columns).
            sounds: Directions, float, shape (batch, others, dim).
        """
        maps = einsum(
            pictures, sounds, "batch dim rows columns, batch others dim -> batch others rows columns"
        )
        return self.scale * maps.amax((2, 3)) + self.bias


class AudioVisualCorrespondence(Method):
    """Tell whether a sound was heard when a picture was seen.

    The metric `accuracy` is that of the answers from the whole picture, `places` that of the answers from its best
    place, with as many pairs of each kind. Of data with C equally common
    classes that nothing else tells apart no more than 1 - 1 / (2 C) can be right, since others are of the same class.

    Args:
        encoder: Networks whose features are kept, and the space in which they meet.
        pool: What is compared with the sound: "max", the picture as a whole (AVE-Net); "location", that and its
            best fitting place (AVOL-Net), which says where the sound comes from.
        negatives: Sounds of other clips of the batch that each picture is compared with, at most.
        crop: Smallest share of the picture's area that is shown.
        jitter: Strength of the changes of brightness and saturation.
        flip: Probability that a picture is mirrored.
        volume: Largest change of the loudness, as a share of it.
    """

    smallest: ClassVar = {"encoder": "av-conv4"}
    encoder: Any
    kind = "audio-visual"
    defaults: ClassVar[dict[str, Any]] = {
        "encoder": "av-resnet10",
        "batch_size": 32,
        "lr": 2e-3,
        "weight_decay": 1e-5,
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        pool: Literal["max", "location"] = "location",
        negatives: int = 8,
        crop: float = 0.7,
        jitter: float = 0.3,
        flip: float = 0.5,
        volume: float = 0.1,
    ) -> None:
        super().__init__(encoder)
        check.choice(("max", "location"), pool=pool)
        check.whole(negatives=negatives)
        check.at_least(1, negatives=negatives)
        check.fraction(volume=volume)
        self.pool, self.negatives, self.volume = pool, negatives, volume
        colors: dict[str, Any] = {"jitter": jitter, "contrast": 0, "hue": 0, "gray": 0}
        self.views = Views(self.encoder.image_size, crop=crop, flip=flip, **colors)
        if (
            pool == "max"
        ):  # nothing trains them, and processes that train together wait for all that is trainable
            self.encoder.trunk.meeting.place.requires_grad_(False)
        self.head = nn.ModuleDict(
            {"whole": Distance()} | ({"places": Places()} if pool == "location" else {})
        )

    def chance(self, samples: int) -> float:
        return math.log(2)

    def training_view(self, data: "Data") -> "Data":
        return self.encoder.evaluation_view(data).moments(self.encoder.seconds, random=True)

    def forward(self, batch: Batch) -> Tensor:
        samples = len(batch["index"])
        if samples < 2:
            raise UserError(f"batch_size must be at least 2, for sounds of other clips, got {samples}")
        negatives = min(self.negatives, samples - 1)
        change = torch.empty(samples, 1, device=batch["waveform"].device).uniform_(-self.volume, self.volume)
        sounds = self.encoder.sound(batch["waveform"] * (1 + change))
        chosen, differ = others(batch["index"], negatives)
        own = torch.arange(samples, device=chosen.device)[:, None]
        answers = self.answers(self.views(batch), sounds[torch.cat([own, chosen], 1)])
        together = torch.zeros(samples, 1 + negatives, dtype=torch.bool, device=chosen.device)
        together[:, 0] = True
        self.metrics = {}
        for name, logits in answers.items():
            right = ((logits > 0) == together).float()
            self.metrics[METRICS[name]] = (right[:, 0].mean() + right[:, 1:].mean()).detach() / 2
        counted = torch.cat([own >= 0, differ], 1)
        return torch.stack([loss(logits, together, counted) for logits in answers.values()]).mean()

    def answers(self, images: Tensor, sounds: Tensor) -> dict[str, Tensor]:
        """Logits of yes, by head, float, shape (batch, others) each.

        Args:
            images: Float in 0..1, shape (batch, channels, height, width).
            sounds: Directions, float, shape (batch, others, dim).
        """
        picture, places = self.encoder.directions(images)
        seen: dict[str, Tensor] = {"whole": picture, "places": places}
        with torch.autocast(images.device.type, enabled=False):  # small differences of distances count
            return {name: head(seen[name], sounds) for name, head in self.head.items()}

    def embedding(self, batch: Batch) -> Tensor:
        return self.encoder.picture(self.encoder.inputs(batch).image)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Pictures and spectrograms, and what is said of its own sound and of that of the next sample."""
        image, waveform = self.encoder.inputs(batch)
        sounds = self.encoder.sound(waveform)
        following = sounds.roll(-1, 0)
        answers = self.answers(image, torch.stack([sounds, following], 1))["whole"]
        own, other = answers.sigmoid().unbind(1)
        pairs = zip(own.tolist(), other.tolist())
        shown: Pictures = {
            "image": image,
            "sound": shown_sound(self.encoder.audio.adapt(waveform), image.shape[2]),
            "predicted": [f"its sound: {yes:.0%} sure; the next one's: {no:.0%}" for yes, no in pairs],
        }
        if "places" in self.head:
            places = self.encoder.positions(image)
            shown["where its sound is"] = overlaid(image, fits(places, sounds))
            shown["where the next one's is"] = overlaid(image, fits(places, following))
        return shown
