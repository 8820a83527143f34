"""BEST-RQ: mask spans of a spectrogram and predict the codes that a frozen random quantizer assigns to them.

Withheld: about a third of the tokens, each of four log-mel frames, in spans, replaced by weak noise. Predicted: the
number of the random direction that is nearest to the random projection of each masked token.

Source: Chiu, Qin, Zhang, Yu, Wu, "Self-supervised Learning with Random-projection Quantizer for Speech Recognition",
2022, https://arxiv.org/abs/2202.01855; several codebooks: Zhang and others, "Google USM: Scaling Automatic Speech
Recognition Beyond 100 Languages", 2023, https://arxiv.org/abs/2303.01037
Differs: the network is a transformer, not a Conformer, with four layers by default. Spans begin at a fixed number of
random tokens, not at each frame with a probability of 0.01, and cover at most half of a sound. There are 1,024 codes by
default, for minutes of speech, where the paper has 8,192. The optimizer is AdamW with a cosine.
Shortcut: without normalization, what all tokens share decides the code, and nearly all get the same one; so each band
has mean 0 and deviation 1 in each sound, and the metric `codes` shows how many are in use. What the network hears is
normalized without the masked tokens, else their mean would be known. Windows at the ends of a span overlap with it by
15 ms, so spans are long.
"""

from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from unlabeled.check import UserError
from unlabeled.data.audio.data import Sounds
from unlabeled.encoders import AudioEncoder
from unlabeled.method import Batch, EncoderNeeds, Method, Pictures
from unlabeled.options import Count, NonNegative, Positive, PositiveFraction, Several
from unlabeled.parts import masked_codes, ragged
from unlabeled.parts.random_quantizer import RandomQuantizer
from unlabeled.parts.spans import spans

__all__ = ["BestRQ"]

MOST = 0.5
"""Fraction of a sound that a span covers at most."""


class BestRQ(Method[AudioEncoder]):
    """Mask spans of a spectrogram and predict the codes that a frozen random quantizer assigns to them.

    The metric `accuracy` is how often the most likely code is the true one, `codes` how many codes are in use, as the
    exponential of their entropy, averaged over the codebooks.

    Args:
        encoder: Transformer over a spectrogram whose features are kept, such as mel-transformer-mini.
        codes: Codes of each codebook; 8192 in the paper.
        code_dim: Dimension of the random projection.
        codebooks: Number of codebooks, each with a projection and a prediction of its own; 1 in the paper, 16 in USM.
        mask: Fraction of the tokens that the masked spans would cover if none overlapped.
        span: Tokens of 40 ms of a masked span; 10 in the paper.
        noise: Standard deviation of the noise that replaces masked tokens.
        crop_seconds: Longest excerpt of a sound that the encoder reads, in seconds.
    """

    kind = "audio"
    encoder_needs = EncoderNeeds("masks_mel", "be a mel-transformer such as mel-transformer-mini", True)
    defaults: ClassVar = {"encoder": "mel-transformer-mini", "batch_size": 64, "lr": 1e-3}
    smallest: ClassVar = {"encoder": "mel-transformer-tiny", "codes": 16}
    baseline: Tensor

    def __init__(
        self,
        encoder: AudioEncoder,
        *,
        codes: Several = 1024,
        code_dim: Count = 16,
        codebooks: Count = 1,
        mask: PositiveFraction = 0.4,
        span: Count = 10,
        noise: NonNegative = 0.1,
        crop_seconds: Positive = 15.0,
    ) -> None:
        super().__init__(encoder)
        self.mask, self.span, self.noise, self.crop_seconds = mask, span, noise, crop_seconds
        self.quantizer = RandomQuantizer(encoder.trunk.token_dim, codebooks, codes, code_dim)
        self.head = nn.Linear(encoder.dim, codebooks * codes)
        self.register_buffer("baseline", torch.tensor(0.0))  # the entropy of the codes

    def training_view(self, data: Sounds) -> Sounds:
        return data.resampled(self.encoder.sample_rate).crops(self.crop_seconds)

    def prepare(self, data: Sounds) -> None:
        tokens, counts = self.encoder.trunk.tokens(*self.bands(data.sample(512)))
        self.baseline.copy_(self.entropy(self.quantizer(tokens[ragged.real(counts, tokens.shape[1])])))
        if not self.baseline > 0:
            raise UserError(f"sounds of {data.name} must have tokens that differ, got one code for all")

    def bands(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-mel bands, float, shape (batch, frames, bins), and true frames of each sound, int64, shape (batch,)."""
        return self.encoder.adapt(self.encoder.inputs(batch))

    def entropy(self, codes: Tensor) -> Tensor:
        """Entropy of codes, int64, shape (tokens, codebooks), in nats: the mean over the codebooks."""
        size = self.quantizer.words.shape[1]
        return torch.stack([masked_codes.entropy(book, size) for book in codes.unbind(1)]).mean()

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mask tokens and predict their codes.

        Returns:
            Tokens before some are masked, float, shape (batch, tokens, dim); which are real and which are masked, bool,
            shape (batch, tokens); logits, float, shape (masked * codebooks, codes).
        """
        network, (bands, frames) = self.encoder.trunk, self.bands(batch)
        tokens, counts = network.tokens(bands, frames)
        masked = spans(counts, tokens.shape[1], self.mask, self.span, fewest=1, most=MOST)
        heard, _ = network.tokens(bands, frames, masked)
        heard = torch.where(masked[:, :, None], self.noise * torch.randn_like(heard), heard)
        logits = self.head(network.context(heard, counts)[-1][masked])
        logits = rearrange(logits, "n (books codes) -> (n books) codes", books=len(self.quantizer.words))
        return tokens, ragged.real(counts, tokens.shape[1]), masked, logits

    def forward(self, batch: Batch) -> Tensor:
        tokens, _, masked, logits = self.predict(batch)
        codes = self.quantizer(tokens[masked])
        right = masked_codes.accuracy(logits, codes.flatten())
        self.metrics = {"accuracy": right, "codes": self.entropy(codes).exp()}
        return masked_codes.loss(logits, codes.flatten())

    @torch.no_grad()
    def pictures(self, batch: Batch) -> Pictures:
        """Normalized spectrograms, and means of all tokens that have the code of a masked one in the first codebook."""
        tokens, real, masked, logits = self.predict(batch)
        codes = self.quantizer(tokens.flatten(0, 1))[:, 0].view(real.shape)
        predicted = codes.masked_scatter(masked, logits.argmax(1)[:: len(self.quantizer.words)])
        bands = rearrange(tokens, "b t (s bins) -> b bins (t s)", bins=self.encoder.config["bins"])
        return masked_codes.code_pictures(bands, real, masked, codes, predicted)
