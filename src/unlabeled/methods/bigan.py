"""BiGAN: train an encoder and a generator until a discriminator cannot tell their image-code pairs apart.

Withheld: the code (latent vector) of a real image, and the image of a random code. Predicted: both, by two networks
that never see each other's output: the discriminator gets a pair of image and code and decides whether the code was
inferred from the image or the image was generated from the code. Where it cannot tell, the encoder inverts the
generator.

Source: Donahue, Krähenbühl, Darrell, "Adversarial Feature Learning", 2017, https://arxiv.org/abs/1605.09782
Differs: the generator and the discriminator are small, the generator doubles its maps by interpolation, not by
transposed convolutions, the encoder is any network, and all of them work at one image size. Codes have 64 numbers, not
200, and a tanh bounds those of the encoder. The optimizer is AdamW, not Adam. The learning rate warms up and then
follows a cosine. The running statistics of norms are used as they are, where the paper re-estimates them over many
batches. The features are the encoder's, before the code.
Shortcut: inferred codes with another range than random ones would give the encoder away, so both lie in -1..1. A
discriminator that ignored the code would teach the encoder nothing, so image and code are joined before its last
layers. There is no chance level, as both players are at chance before training and, if it goes well, at its end.
"""

from typing import ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabeled import check
from unlabeled.encoders import ImageEncoder
from unlabeled.method import Batch, Losses, Method
from unlabeled.options import Count, ViewOptions
from unlabeled.parts.adversarial import build_discriminator, judge
from unlabeled.parts.augment import Views
from unlabeled.parts.decoder import Decoder
from unlabeled.parts.heads import near_zero

__all__ = ["BiGAN"]


def loss(inferred: Tensor, generated: Tensor) -> Tensor:
    """Loss of the discriminator; with the arguments swapped, that of the encoder and the generator.

    Args:
        inferred: Logits of real images with inferred codes, float, shape (batch, 1).
        generated: Logits of generated images with random codes, float, shape (batch, 1).

    Returns:
        -log D(inferred) - log(1 - D(generated)), mean over the batch, scalar, in nats: 2 ln 2 where D is 1/2.
    """
    return F.softplus(-inferred).mean() + F.softplus(generated).mean()


class JointDiscriminator(nn.Module):
    """Tells real images with inferred codes from generated images with random codes.

    Args:
        channels: Channels of the images.
        size: Side of the images in pixels.
        code_dim: Dimension of the codes.
        width: Width of the representations of the image, of the code and of both.
    """

    def __init__(self, channels: int, size: int, code_dim: int, width: int = 256) -> None:
        super().__init__()
        self.image = build_discriminator(channels, size, outputs=width)
        self.code = nn.Linear(code_dim, width)
        self.both = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Linear(2 * width, width), nn.LeakyReLU(0.2), near_zero(nn.Linear(width, 1))
        )

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """Logits, float, shape (batch, 1), of images (batch, channels, size, size) in 0..1 and codes (batch, dim)."""
        return self.both(torch.cat([self.image(2 * images - 1), self.code(codes)], 1))


class BiGAN(Method[ImageEncoder]):
    """Train an encoder and a generator until a discriminator cannot tell their image-code pairs apart.

    The metrics `probability_real` and `probability_generated` are the mean probabilities of being real that the
    discriminator gives to real images with inferred codes, and to generated images with random codes: 0.5 where it
    guesses.

    Args:
        encoder: Network whose features are kept.
        code_dim: Dimension of the codes.
        **views: How the images are cropped and mirrored.
    """

    held_out = "undefined"
    learning_rates: ClassVar[dict[str, float]] = {"discriminator": 1.0}
    defaults: ClassVar = {"lr": 2e-4, "betas": [0.5, 0.999], "weight_decay": 2.5e-5}
    view_defaults = ViewOptions(crop=0.8, flip=0.5)
    recipe: ClassVar = {"epochs": 15, "lr": 5e-4}

    def __init__(self, encoder: ImageEncoder, *, code_dim: Count = 64, **views: Unpack[ViewOptions]) -> None:
        super().__init__(encoder)
        channels, size = encoder.in_channels, encoder.image_size
        check.at_least(4, image_size=size)
        self.code_dim = code_dim
        self.views = Views(size, **self.view_options(views))
        self.code = nn.Linear(encoder.dim, code_dim)
        self.generator = Decoder((code_dim, 1, 1), channels, size)
        self.discriminator = JointDiscriminator(channels, size, code_dim)

    def forward(self, batch: Batch) -> Losses:
        images = self.views(batch)
        noise = self.noise(len(images), images.device)
        real, fake = (images, self.encode(images)), (self.generate(noise), noise)
        on_real, on_fake = (self.discriminator(*(part.detach() for part in pair)) for pair in (real, fake))
        self.metrics = {
            "probability_real": on_real.detach().sigmoid().mean(),
            "probability_generated": on_fake.detach().sigmoid().mean(),
        }
        # With the arguments swapped, the gradient does not vanish where the discriminator wins.
        theirs = loss(judge(self.discriminator, *fake), judge(self.discriminator, *real))
        return {"generator": theirs, "discriminator": loss(on_real, on_fake)}

    def noise(self, count: int, device: torch.device) -> Tensor:
        """Random codes, uniform in -1..1, float, shape (count, code_dim)."""
        return 2 * torch.rand(count, self.code_dim, device=device) - 1

    def encode(self, images: Tensor) -> Tensor:
        """Inferred codes, float, shape (batch, code_dim), in -1..1."""
        return self.code(self.encoder(images)).tanh()

    def generate(self, codes: Tensor) -> Tensor:
        """Images generated from codes, float, shape (batch, channels, size, size), in 0..1."""
        return self.generator(codes[:, :, None, None]).sigmoid()

    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        images = self.encoder.inputs(batch)
        return {
            "image": images,
            "reconstructed": self.generate(self.encode(images)),
            "generated from noise": self.generate(self.noise(len(images), images.device)),
        }
