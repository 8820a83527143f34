"""Sounds become players that carry their samples."""

import base64
import io
import wave

import torch
from markupsafe import Markup, escape
from torch import Tensor

__all__ = ["LONGEST", "player", "wav"]

LONGEST = 4.0
"""Seconds of a sound that a page plays; longer ones are cut, so that the page stays small."""


def wav(waveform: Tensor, sample_rate: int) -> bytes:
    """Encode one sound in 16 bits.

    Args:
        waveform: Float, shape (samples,), in -1..1; a louder one is scaled down, and what is not finite is silent.
        sample_rate: In hertz.

    Returns:
        The bytes of a WAV file with one channel.
    """
    sound = waveform.detach().float().cpu().nan_to_num(0, 0, 0)
    sound = sound / sound.abs().max().clamp(min=1) if len(sound) else sound
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((sound * (2**15 - 1)).round().to(torch.int16).numpy().astype("<i2").tobytes())
    return buffer.getvalue()


def player(waveform: Tensor, sample_rate: int, description: str) -> Markup:
    """Make an `<audio>` that carries the first seconds of a sound.

    Args:
        waveform: Float, shape (samples,), in -1..1.
        sample_rate: In hertz.
        description: What is played; plain text.

    Returns:
        HTML.
    """
    data = base64.b64encode(wav(waveform[: round(LONGEST * sample_rate)], sample_rate)).decode()
    return Markup(
        f'<audio controls aria-label="{escape(description)}" src="data:audio/wav;base64,{data}"></audio>'
    )
