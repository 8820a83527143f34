"""Image GPT: predict the colour of the next pixel from all earlier ones.

Withheld: each pixel of an image in turn, row by row. Predicted: its colour, an entry of a palette that is learned from
the data. Features: the states of a middle layer, averaged over all pixels.

Source: Chen, Radford, Child, Wu, Jun, Luan, Sutskever, "Generative Pretraining from Pixels", 2020,
https://proceedings.mlr.press/v119/chen20s.html
Differs: the networks are far smaller, and so are the palettes of two of them; channels are standardised before colours
are clustered. Images are mirrored at random. The learning rate warms up over 5 % of the steps, not over one epoch. The
paper's variant that predicts masked pixels is left out.
Shortcut: a pixel that saw itself would only be copied, so the input is shifted by one pixel and attention is causal.
Neighbouring pixels are alike, so the loss falls far before anything is learned about the content: judge by the
features, not by the loss.
"""

import math
from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from unlabeled.data import Data
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, EncoderNeeds, Method
from unlabeled.options import NonNegative, ViewOptions
from unlabeled.parts import gather, tokens
from unlabeled.parts.augment import Views
from unlabeled.parts.kmeans import kmeans

__all__ = ["ImageGPT"]

IMAGES, PIXELS = 512, 2**15
"""Images whose colours are counted, and how many of their pixels the palette is learned from."""


class ImageGPT(Method[ImageEncoder]):
    """Predict the colour of the next pixel from all earlier ones.

    The metric `accuracy` is the fraction of pixels whose colour is predicted correctly.

    Args:
        encoder: Network whose features are kept.
        temperature: Sampling temperature with which pictures complete an image; 0 always takes the most likely colour.
        **views: How the images are cropped and mirrored.
    """

    encoder_needs = EncoderNeeds("is_pixel_gpt", "read images pixel by pixel, such as pixel-gpt-16", True)
    held_out = "stop"
    defaults: ClassVar = {
        "encoder": "pixel-gpt-16",
        "batch_size": 64,
        "lr": 2e-3,
        "betas": [0.9, 0.95],
        "weight_decay": 0.0,
    }
    view_defaults = ViewOptions(crop=1.0, flip=0.5)
    smallest: ClassVar = {"encoder": "pixel-gpt-8"}
    entropy: Tensor

    def __init__(
        self, encoder: ImageEncoder, *, temperature: NonNegative = 1.0, **views: Unpack[ViewOptions]
    ) -> None:
        super().__init__(encoder)
        self.temperature = temperature
        self.views = Views(encoder.image_size, **self.view_options(views))
        count = len(encoder.trunk.adapt.colors)
        self.head = nn.Linear(encoder.dim, count, bias=False)
        nn.init.zeros_(self.head.weight)
        self.register_buffer("entropy", torch.tensor(math.log(count)))

    def chance(self, samples: int) -> float:
        """Loss of always predicting the frequencies of the colours."""
        return float(self.entropy)

    @torch.no_grad()
    def prepare(self, data: Data) -> None:
        """Learn the palette, unless the encoder already has one from earlier training, and count its colours."""
        trunk = self.encoder.trunk
        images = self.views(data.sample(IMAGES)).to(self.entropy.device)
        palette = trunk.adapt
        if not palette.fitted:
            small = F.adaptive_avg_pool2d(self.encoder.adapt(images), trunk.size)
            pixels = rearrange(small, "b c h w -> (b h w) c")
            pixels = pixels[torch.randperm(len(pixels), device=pixels.device)[:PIXELS]]
            palette.colors.copy_(gather.broadcast(kmeans(pixels, len(palette.colors)).centres))
        counts = self.tokens(images).flatten().bincount(minlength=len(palette.colors))
        self.entropy.copy_(tokens.entropy(counts))

    def tokens(self, images: Tensor) -> Tensor:
        """Colours of the pixels that the encoder reads, row by row, int64, shape (batch, pixels)."""
        return self.encoder.trunk.tokens(self.encoder.adapt(images))

    def forward(self, batch: Batch) -> Tensor:
        truth = self.tokens(self.views(batch))
        logits = self.logits(truth).flatten(0, 1)
        self.metrics = {"accuracy": tokens.accuracy(logits.detach(), truth.flatten())}
        return tokens.cross_entropy(logits, truth.flatten())

    def logits(self, truth: Tensor) -> Tensor:
        """Logits of each pixel from those before it, float, shape (batch, pixels, colours), of (batch, pixels)."""
        trunk = self.encoder.trunk
        return self.head(trunk.state(trunk.vectors(truth), len(trunk.blocks))).float()

    @torch.no_grad()
    def generate(self, prefix: Tensor) -> Tensor:
        """Complete images.

        Args:
            prefix: Colours of their first pixels, int64, shape (batch, any number of pixels).

        Returns:
            Colours of all pixels, int64, shape (batch, pixels).
        """
        trunk = self.encoder.trunk
        pasts, processed = [[] for _ in trunk.blocks], 0
        pixels = prefix
        while pixels.shape[1] < len(trunk.positions):
            new = trunk.vectors(pixels)[:, processed:]
            state = trunk.state(new, len(trunk.blocks), pasts)[:, -1]
            processed += new.shape[1]
            color = tokens.sample(self.head(state).float(), self.temperature, top_k=0, top_p=1.0)
            pixels = torch.cat([pixels, color[:, None]], 1)
        return pixels

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        truth = self.tokens(images)
        half = truth.shape[1] // 2
        upper = self.to_images(truth)
        upper[:, :, -(upper.shape[2] // 2) :] = 0.5
        return {
            "image": images,
            "in palette colours": self.to_images(truth),
            "upper half": upper,
            "completed": self.to_images(self.generate(truth[:, :half])),
        }

    def to_images(self, colors: Tensor) -> Tensor:
        """Images from the palette indices of their pixels, float, shape (batch, channels, size, size), in 0..1."""
        adapt, trunk = self.encoder.adapt, self.encoder.trunk
        pixels = trunk.adapt.colors[colors] * adapt.std + adapt.mean
        return rearrange(pixels, "b (h w) c -> b c h w", h=trunk.size).clamp(0, 1)
