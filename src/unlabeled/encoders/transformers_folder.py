"""Folders as the transformers library saves a model with its tokenizer, feature extractor or image processor."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlabeled.encoders.tokenizer import END, Family

__all__ = [
    "read_audio_features",
    "read_image_model",
    "read_text_states",
    "write_audio_model",
    "write_image_model",
    "write_text_model",
]


def write_text_model(
    folder: Path,
    model: Any,
    tokenizer: Any,
    family: Family,
    length: int,
    called: dict[str, str] | None = None,
) -> None:
    """Write model and tokenizer as `AutoModel` and `AutoTokenizer` of transformers read them.

    Args:
        folder: Where to write.
        model: `BertModel`, `ModernBertModel` or `GPT2Model`.
        tokenizer: A `tokenizers.Tokenizer`.
        family: Whose special tokens it has.
        length: Most tokens that are read at once.
        called: What the tokenizer calls these, where it has other names for them.
    """
    from transformers import PreTrainedTokenizerFast

    special = (
        dict.fromkeys(("pad_token", "eos_token", "bos_token", "unk_token"), END)
        if family == "gpt"
        else {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    )
    if called is not None:
        special = {role: called[token] for role, token in special.items() if token in called}
    # GPT-2 would add the vector of a token for each segment; ModernBERT has none.
    segments = family == "bert" and getattr(model.config, "type_vocab_size", 0) > 1
    names = ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        padding_side="right",
        model_input_names=names,
        **special,
    )
    with _quiet():
        wrapped.save_pretrained(folder)
        model.save_pretrained(folder)


@torch.no_grad()
def read_text_states(folder: Path, x: list[str] | dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """States of the last layer as transformers computes them from such a folder.

    Args:
        folder: Where it was written.
        x: `input_ids` and `attention_mask`, or texts, which are then read with the tokenizer of the folder.

    Returns:
        Float, shape (batch, length, dim), and which tokens are real, bool, shape (batch, length).
    """
    from transformers import AutoModel, AutoTokenizer

    with _quiet():
        model = AutoModel.from_pretrained(str(folder)).eval()
    if isinstance(x, list):
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        x = dict(tokenizer(x, padding=True, truncation=True, return_tensors="pt"))
    return model(**x).last_hidden_state, x["attention_mask"].bool()


def write_audio_model(folder: Path, model: Any, sample_rate: int, normalize: bool = True) -> None:
    """Write model and feature extractor as `AutoModel` and `AutoFeatureExtractor` of transformers read them.

    Args:
        folder: Where to write.
        model: `Wav2Vec2Model`.
        sample_rate: Samples per second of the waveforms that it takes, in hertz.
        normalize: Whether these have mean 0 and variance 1.
    """
    from transformers import Wav2Vec2FeatureExtractor

    padded = model.config.feat_extract_norm == "layer"
    model.save_pretrained(folder)
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=sample_rate, do_normalize=normalize, return_attention_mask=padded
    )
    extractor.save_pretrained(folder)


def read_audio_features(folder: Path, waveforms: Iterable[Tensor], sample_rate: int) -> Tensor:
    """Mean state of each sound as transformers computes it from such a folder, float, shape (batch, dim).

    Args:
        folder: Where it was written.
        waveforms: Sounds without padding, float, shape (samples,) each.
        sample_rate: Their samples per second, in hertz.
    """
    from transformers import AutoFeatureExtractor, AutoModel

    model = AutoModel.from_pretrained(str(folder)).eval()
    extractor = AutoFeatureExtractor.from_pretrained(str(folder))
    features = []
    for waveform in waveforms:
        x = extractor(waveform.cpu().numpy(), sampling_rate=sample_rate, return_tensors="pt")
        features.append(model(x["input_values"]).last_hidden_state.mean(1))
    return torch.cat(features)


def write_image_model(
    folder: Path, model: Any, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Write model and image processor as `AutoModel` and `AutoImageProcessor` of transformers read them.

    Args:
        folder: Where to write.
        model: A network for images.
        image_size: Height and width in pixels of its input; the processor resizes the shorter side and cuts the centre.
        mean: What is subtracted from each channel of images in 0..1.
        std: What then divides it.
    """
    from transformers import BitImageProcessor

    side = {"height": image_size, "width": image_size}
    processor = BitImageProcessor(
        size={"shortest_edge": image_size},
        crop_size=side,
        resample=2,  # bilinear
        image_mean=[*mean],
        image_std=[*std],
        do_convert_rgb=len(mean) == 3,
    )
    with _quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def read_image_model(folder: Path, images: Tensor) -> tuple[Any, Tensor]:
    """The model of such a folder, and what it takes of images that need not be resized.

    Args:
        folder: Where it was written.
        images: Float, shape (batch, channels, height, width), in 0..1, of the size that the processor gives.

    Returns:
        The model in evaluation mode, and its input, float, shape (batch, channels, height, width).
    """
    from transformers import AutoImageProcessor, AutoModel

    with _quiet():
        model = AutoModel.from_pretrained(str(folder)).eval()
        processor = AutoImageProcessor.from_pretrained(str(folder))
    return model, processor([*images], do_rescale=False, return_tensors="pt")["pixel_values"]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of transformers, and without its note that the unused pooler is missing."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
