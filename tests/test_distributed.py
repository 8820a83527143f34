"""Two or four processes that share a batch train exactly as one process with the whole batch.

Each process sees its rows of fixed views, in float64, and DDP averages the gradients, as in training.
"""

import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Self
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from unlabeled import encoders, pretrain
from unlabeled import methods as registry
from unlabeled.data import open_data
from unlabeled.data.audio.data import from_waveforms
from unlabeled.data.audio_visual import from_pairs
from unlabeled.data.text.data import Texts
from unlabeled.data.trajectories import from_trajectories
from unlabeled.encoders import audio_visual as audio_visual_encoders
from unlabeled.encoders import from_timm, stages
from unlabeled.encoders import image as images
from unlabeled.encoders import text as text_encoders
from unlabeled.method import Method
from unlabeled.methods import audio_visual_correspondence
from unlabeled.methods import best_rq as best_rq_method
from unlabeled.methods import cpc_audio as cpc_audio_method
from unlabeled.methods import data2vec_audio as data2vec_audio_method
from unlabeled.methods import electra as electra_method
from unlabeled.methods import hubert as hubert_method
from unlabeled.methods import pase as pase_method
from unlabeled.methods import wav2vec2 as wav2vec2_method
from unlabeled.methods.apc import APC
from unlabeled.methods.barlow_twins import BarlowTwins
from unlabeled.methods.beit import BEiT
from unlabeled.methods.bert import BERT
from unlabeled.methods.bigan import BiGAN
from unlabeled.methods.byol import BYOL
from unlabeled.methods.colorization import Colorization
from unlabeled.methods.context_encoder import ContextEncoder
from unlabeled.methods.contrastive_pairs import ContrastivePairs
from unlabeled.methods.cpc import CPC
from unlabeled.methods.data2vec import Data2Vec
from unlabeled.methods.data2vec_text import Data2VecText
from unlabeled.methods.deepcluster import DeepCluster
from unlabeled.methods.densecl import DenseCL
from unlabeled.methods.dino import DINO
from unlabeled.methods.dinov2 import DINOv2
from unlabeled.methods.gpt import GPT
from unlabeled.methods.ibot import IBOT
from unlabeled.methods.ijepa import IJEPA
from unlabeled.methods.instance_discrimination import InstanceDiscrimination
from unlabeled.methods.lejepa import LeJEPA
from unlabeled.methods.mae import MAE
from unlabeled.methods.moco import MoCo
from unlabeled.methods.moco_v3 import MoCoV3
from unlabeled.methods.neural_language_model import NeuralLanguageModel
from unlabeled.methods.nnclr import NNCLR
from unlabeled.methods.noise_as_targets import NoiseAsTargets
from unlabeled.methods.patch_tracking import PatchTracking
from unlabeled.methods.pirl import PIRL
from unlabeled.methods.seco import SeCo
from unlabeled.methods.simclr import SimCLR
from unlabeled.methods.simcse import SimCSE
from unlabeled.methods.simmim import SimMIM
from unlabeled.methods.swav import SwAV
from unlabeled.methods.time_contrastive import TimeContrastive
from unlabeled.methods.trajectory_unmasking import TrajectoryUnmasking
from unlabeled.methods.triplet import Triplet
from unlabeled.methods.vicreg import VICReg
from unlabeled.methods.video_colorization import VideoColorization
from unlabeled.parts import gather, patches, ragged, shuffle, tokens
from unlabeled.parts.info_nce import nt_xent
from unlabeled.parts.tokens import IGNORED
from unlabeled.run import CHECKPOINT, Run, read_checkpoint
from unlabeled.training import processes
from unlabeled.training.norm import synchronize
from unlabeled.worlds import chiming_shapes, rooms, tones

SAMPLES, SIZE, STEPS, SECONDS = 16, 8, 2, 240
State = dict[str, Tensor]


class Given:
    """Fixed views of numbered samples, one after the other."""

    def __init__(self, *seeds: int, size: int = SIZE) -> None:
        shape = (SAMPLES, 3, size, size)
        self.views = [
            torch.rand(shape, generator=torch.Generator().manual_seed(seed)).double() for seed in seeds
        ]
        self.turn = 0

    def __call__(self, batch: State) -> Tensor:
        self.turn += 1
        return self.views[self.turn % len(self.views)][batch["index"]]


build = partial(encoders.build, "conv4", image_size=SIZE)


def simclr() -> Method:
    method = SimCLR(build(), projection_dim=6)
    method.views = Given(1, 2)  # type: ignore[assignment]
    return method


def moco(splits: int, symmetric: bool) -> Method:
    method = MoCo(build(), projection_dim=6, queue=20, momentum=0.9, splits=splits, symmetric=symmetric)
    method.views = Given(1, 2)  # type: ignore[assignment]
    return method


def seco() -> Method:
    method = SeCo(build(), projection_dim=6, queue=20, momentum=0.9, splits=1)
    views = [Given(seed) for seed in (1, 2, 3, 4)]
    method.four_views = lambda batch: [view(batch) for view in views]  # type: ignore[method-assign]
    return method


def patch_tracking() -> Method:
    """Hard negatives, as random ones differ; pairs of clips are of one video, and some do not count."""
    encoder = encoders.build("frames-conv4", kind="video", image_size=SIZE)
    method = PatchTracking(encoder, embedding_dim=6, flip=0.0, random_until=0.0)
    first, last = Given(1), Given(2)
    method.whole = {"group": torch.arange(SAMPLES) // 2}
    method.views = lambda batch: batch["image"]  # type: ignore[assignment]
    method.ends = lambda batch: (first(batch), last(batch), batch["index"] % 3 > 0)  # type: ignore[method-assign]
    return method


def byol() -> Method:
    method = BYOL(build(), momentum=0.9, projection_dim=6, hidden_dim=12)
    method.views = Given(1), Given(2)  # type: ignore[assignment]
    return method


def barlow_twins(dim: int) -> Method:
    method = BarlowTwins(build(), projection_dim=dim)
    method.views = Given(1), Given(2)  # type: ignore[assignment]
    return method


def vicreg(dim: int) -> Method:
    method = VICReg(build(), projection_dim=dim)
    method.views = Given(1), Given(2)  # type: ignore[assignment]
    return method


def nnclr() -> Method:
    method = NNCLR(build(), projection_dim=6, hidden_dim=12, queue=20)
    method.views = Given(1, 2)  # type: ignore[assignment]
    return method


def lejepa() -> Method:
    method = LeJEPA(build(), projection_dim=6, hidden_dim=12, lines=8, local_crops=2)
    method.views, method.small_crops.views = Given(1, 2), Given(3, 4, size=4)  # type: ignore[assignment]
    return method


def dino() -> Method:
    steps = {"freeze_steps": 1, "local_crops": 3}
    method = DINO(build(), prototypes=5, hidden_dim=12, bottleneck_dim=6, momentum=0.9, **steps)
    method.views, method.small_crops.views = Given(1, 2), Given(3, 4, 5, size=4)  # type: ignore[assignment]
    return method


def masked_distillation(kind: Callable[..., Any], **options: Any) -> Method:
    """The same crops and masks of an image, whatever process has it; processes have different numbers of masks."""
    sizes = {"prototypes": 5, "hidden_dim": 12, "bottleneck_dim": 6, "freeze_steps": 1, "local_crops": 2}
    method = kind(encoders.build("vit-small", image_size=16), momentum=0.9, **sizes, **options)
    method.views, method.distill.small_crops.views = Given(1, 2, size=16), Given(3, 4, size=8)
    torch.manual_seed(5)
    masks = method.distill.draw_masks(torch.zeros(2 * SAMPLES, 1))
    masks[: SAMPLES // 2] = False
    method.distill.draw_masks = lambda crops: torch.cat([part[rows()] for part in masks.chunk(2)])
    return method


def pirl(negatives: int) -> Method:
    """The same noise and tiles for a sample, whatever process has it."""
    method = PIRL(encoders.build("conv4", image_size=12), projection_dim=6, negatives=negatives)
    method.prepare(open_data(pictures(SAMPLES)))
    method.bank.noise = lambda index, negatives: (3 * index[:, None] + torch.arange(negatives)) % SAMPLES  # type: ignore
    whole = Given(2, size=12)
    method.views = Given(1, size=12)
    method.tiles = lambda batch: patches.cells(whole(batch), 3)  # type: ignore[method-assign]
    return method


def densecl() -> Method:
    method = DenseCL(build(), projection_dim=6, queue=20, momentum=0.9, splits=1)
    method.views = Given(1, 2)  # type: ignore[assignment]
    return method


def swav() -> Method:
    steps: dict[str, int] = {"queue": 20, "queue_steps": 1, "freeze_steps": 1, "local_crops": 3}
    method = SwAV(build(), prototypes=5, projection_dim=6, hidden_dim=12, **steps)
    method.views, method.small_crops.views = Given(1, 2), Given(3, 4, 5, size=4)  # type: ignore[assignment]
    return method


def contrastive_pairs(normalize: bool) -> Method:
    method = ContrastivePairs(build(), projection_dim=6, margin=1.5, normalize=normalize)
    method.views = Given(1, 2)  # type: ignore[assignment]
    return method


def triplet(mining: Literal["semi-hard", "hardest"]) -> Method:
    method = Triplet(build(), projection_dim=6, margin=0.5, mining=mining)
    method.views = Given(1, 2)  # type: ignore[assignment]
    return method


def moco_v3(network: str) -> Method:
    encoder = encoders.build(network, image_size=SIZE)
    method = MoCoV3(encoder, momentum=0.9, projection_dim=6, hidden_dim=12)
    method.views = Given(1), Given(2)  # type: ignore[assignment]
    return method


def hidden_patches(kind: Callable[..., Any], **options: Any) -> Method:
    """The same view and mask of an image, whatever process has it."""
    method = kind(encoders.build("vit-gap-tiny", image_size=16), **options)
    method.prepare(open_data(pictures(SAMPLES)))
    method.views = Given(1, size=16)
    torch.manual_seed(5)
    mask = method.mask(torch.zeros(SAMPLES, 3, 16, 16))
    method.mask = lambda images: mask[rows()] if isinstance(mask, Tensor) else [x[rows()] for x in mask]
    return method


def instance_discrimination(loss: Literal["softmax", "nce"]) -> Method:
    """The same noise for a sample, whatever process has it."""
    method = InstanceDiscrimination(build(), projection_dim=6, loss=loss, negatives=5, proximal=0.3)
    method.prepare(open_data(pictures(SAMPLES)))
    method.views = Given(1, 2)  # type: ignore[assignment]
    method.bank.noise = lambda index, negatives: (3 * index[:, None] + torch.arange(5)) % SAMPLES  # type: ignore
    return method


def noise_as_targets() -> Method:
    method = NoiseAsTargets(build(input="sobel"), target_dim=6, hidden_dim=12)
    method.prepare(open_data(pictures(SAMPLES)))
    method.begin_epoch(open_data(pictures(SAMPLES)))
    method.views = Given(1, 2)  # type: ignore[assignment]
    return method


def cpc() -> Method:
    method = CPC(build(), grid=3, skip=0, ahead=2, context_dim=4, target_dim=6)
    method.prepare(open_data(pictures(SAMPLES)))
    method.views = Given(1, 2)  # type: ignore[assignment]
    method.patch_views = lambda batch: batch["image"]  # type: ignore[assignment]
    return method


class DoubleColorization(Colorization):
    """The bins stay in float32, as all colours in Lab are."""

    def double(self) -> Self:
        super().double()
        self.centers = self.centers.float()
        return self


def colorization() -> Method:
    method = DoubleColorization(build(input="lightness"))
    method.views = Given(1)  # type: ignore[assignment]
    method.importance.copy_(torch.linspace(0.5, 4, len(method.importance)))
    return method


def deepcluster() -> Method:
    """Processes that would find other clusters, if each had its own."""
    method = DeepCluster(build(input="sobel"), clusters=4)
    data = open_data(pictures(SAMPLES))
    method.prepare(data)
    torch.manual_seed(gather.rank())
    method.begin_epoch(data)
    method.views = Given(1)  # type: ignore[assignment]
    return method


def context_encoder() -> Method:
    """Two players, of which one has norms without running statistics."""
    method = ContextEncoder(encoders.build("conv4", image_size=16), loss="joint", adversarial_weight=0.5)
    torch.manual_seed(5)
    holes = method.drop(torch.zeros(SAMPLES, 3, 16, 16))
    method.views = Given(1, size=16)  # type: ignore[assignment]
    method.drop = lambda images: holes[rows()]  # type: ignore[method-assign]
    return method


def bigan() -> Method:
    """Two players; the images of each process are drawn from its own rows of fixed codes."""
    method = BiGAN(build(), code_dim=4)
    codes = 2 * torch.rand(SAMPLES, 4, generator=torch.Generator().manual_seed(5)).double() - 1
    method.views = Given(1)  # type: ignore[assignment]
    method.noise = lambda count, device: codes[rows()]  # type: ignore[method-assign]
    return method


def among_four(index: Tensor, negatives: int) -> tuple[Tensor, Tensor]:
    """Sounds of the other three of four neighbours, the same pairs whatever process has them."""
    place = torch.arange(len(index))
    chosen = (place // 4 * 4)[:, None] + (place[:, None] + 1 + torch.arange(negatives)) % 4
    return chosen, torch.ones_like(chosen, dtype=torch.bool)


def audio_visual() -> Method:
    made = chiming_shapes.make(SAMPLES, 0, image_size=16)
    data = from_pairs(made["image"], made["waveform"], sample_rate=8000)
    encoder = audio_visual_encoders.fitted("av-conv4", data, image_size=16)
    method = audio_visual_correspondence.AudioVisualCorrespondence(encoder, negatives=3, volume=0)
    method.views = Given(1, size=16)  # type: ignore[assignment]
    method.whole = {
        "waveform": encoder.inputs(
            encoder.evaluation_view(data).batch(torch.arange(SAMPLES))
        ).waveform.double()
    }
    return method


def time_contrastive(objective: Literal["triplet", "npairs"]) -> Method:
    """In some scenes few moments are far enough apart to be told from each other, in some none."""
    encoder = encoders.build("conv4", image_size=20)
    method = TimeContrastive(
        encoder, views="single", objective=objective, moments=3, positive_radius=1, gain=0
    )
    generator = torch.Generator().manual_seed(6)
    views = torch.randint(256, (SAMPLES, 2, 3, 3, 20, 20), generator=generator, dtype=torch.uint8)
    time = torch.arange(SAMPLES)[:, None, None] // 3 * torch.arange(3)
    method.whole = {"views": views, "time": time.expand(-1, 2, -1)}
    return method


def trajectory() -> Method:
    options = {key: value for key, value in TrajectoryUnmasking.smallest.items() if key != "image_size"}
    method = TrajectoryUnmasking(build(), **options)
    data = from_trajectories(rooms.make(SAMPLES, 3, frames=8, size=SIZE))
    method.whole = dict(method.training_view(data).batch(torch.arange(SAMPLES)))
    torch.manual_seed(7)
    hidden = TrajectoryUnmasking.draw(method, method.whole)
    method.draw = lambda batch: hidden[rows()]  # type: ignore[method-assign]
    method.code.register_forward_pre_hook(lambda module, given: given[0].double())  # poses are in float32
    return method


class DoubleVideoColorization(VideoColorization):
    """The palette stays in float32, as all colours in Lab are."""

    def double(self) -> Self:
        super().double()
        self.palette = self.palette.float()
        return self


def video_colorization() -> Method:
    """Random colours: some places of some clips have one that is nowhere in the reference."""
    method = DoubleVideoColorization(
        encoders.build("conv4", image_size=16, input="lightness"), references=1, colors=16
    )
    method.palette.copy_(torch.randn(16, 2) * 20)
    clips = torch.rand(SAMPLES, 2, 3, 16, 16)
    method.clips = lambda batch, random: clips[rows()]  # type: ignore[method-assign]
    return method


def texts() -> Texts:
    """Documents of very different lengths."""
    return Texts(
        [" ".join([f"The cat {number} sat near the dog."] * (2 + 3 * number)) for number in range(SAMPLES)]
    )


def blocks(method: Method) -> State:
    """Blocks of text that are the shorter the higher their number."""
    data = method.training_view(texts())
    batch = dict(data.batch(torch.arange(len(data) - SAMPLES, len(data))))
    for name, padding in (("tokens", 0), ("sentence", -1), ("mask", False)):
        kept = torch.arange(batch[name].shape[1]) < 24 - torch.arange(SAMPLES)[:, None]
        batch[name] = batch[name].where(kept, padding)
    return batch


def bert() -> Method:
    method = BERT(text_encoders.fitted("bert-tiny", texts(), length=24))
    method.encoder.eval()  # no dropout
    method.whole = blocks(method)
    x, *asked = BERT.task(method, method.whole)
    asked[2][:5] = IGNORED

    def task(batch: State) -> tuple[Any, ...]:
        return type(x)(*(part[rows()] for part in x)), *(part[rows()] for part in asked)

    method.task = task  # type: ignore[method-assign]
    return method


def simcse() -> Method:
    method = SimCSE(text_encoders.fitted("bert-tiny", texts(), length=24), dropout=1e-9)
    method.encoder.eval()
    method.whole = blocks(method)

    def two_passes(x: text_encoders.TextInput) -> tuple[Tensor, Tensor]:
        """The text and the text with other words, instead of draws."""
        return method.encoder(x), method.encoder(x._replace(tokens=x.tokens.where(x.tokens % 3 > 0, 5)))

    method.two_passes = two_passes  # type: ignore[method-assign]
    return method


def electra() -> Method:
    """Every third piece is hidden and filled in by the likeliest one."""
    method = electra_method.ELECTRA(text_encoders.fitted("bert-tiny", texts(), length=24))
    method.encoder.eval()
    method.whole = blocks(method)
    method.sample = lambda logits: logits.argmax(1)  # type: ignore[method-assign]
    return method


def gpt() -> Method:
    method = GPT(text_encoders.fitted("gpt-tiny", texts(), length=24))
    method.encoder.eval()
    method.whole = blocks(method)
    return method


def neural_language_model() -> Method:
    method = NeuralLanguageModel(text_encoders.fitted("nplm-tiny", texts(), length=24), direct=True)
    method.whole = blocks(method)
    return method


def sounds() -> State:
    made = tones.make(SAMPLES, 0)
    length = 1600 + 200 * torch.arange(SAMPLES)
    waveform = made["waveform"][:, : int(length[-1])]
    waveform = waveform.where(torch.arange(waveform.shape[1]) < length[:, None], 0).double()
    return {"waveform": waveform, "length": length}


def apc() -> Method:
    whole = sounds()
    data = from_waveforms(whole["waveform"].float(), tones.SAMPLE_RATE, lengths=whole["length"])
    method = APC(encoders.fitted("gru2-24", data, kind="audio"))
    method.encoder.eval()
    method.whole = whole
    return method


def every_third_piece(candidates: Tensor, *_: Any) -> Tensor:
    return candidates & (torch.arange(candidates.shape[1]) % 3 == 0)


def next_ones(count: Tensor, size: int, wanted: int) -> Tensor:
    """The hidden frames that follow, in a circle, the same whatever process has the sound."""
    count = count[:, None, None].clamp(min=2)
    own = torch.arange(size)[:, None]
    return ((own + 1 + torch.arange(wanted) % (count - 1)) % count).clamp(max=size - 1)


def wav2vec2() -> Method:
    encoder = encoders.build("wav2vec2-tiny", kind="audio", sample_rate=tones.SAMPLE_RATE)
    method = wav2vec2_method.Wav2Vec2(encoder, negatives=4, codes=6, code_dim=8, penalty=1, diversity=1)
    method.whole = sounds()
    for part in (method.encoder, method.dropout, method.quantizer):
        part.eval()  # draws nothing
    with torch.no_grad():
        given = method.whole["waveform"].float(), method.whole["length"]
        maps, frames = encoder.trunk.convolve(*encoder.adapt(given))
    masked = method.hide(frames, maps.shape[1])
    method.hide = lambda frames, size: masked[rows()][:, :size]  # type: ignore[method-assign]
    return method


def every_third(lengths: Tensor, size: int, *_: float, **__: float) -> Tensor:
    """Frames to mask, the same whatever process has the sound."""
    return ragged.real(lengths, size) & (torch.arange(size) % 3 == 0)


def hubert() -> Method:
    encoder = encoders.build("wav2vec2-tiny", kind="audio", sample_rate=tones.SAMPLE_RATE)
    method = hubert_method.HuBERT(encoder.eval(), clusters=6)
    method.whole = sounds()
    waveform, length = method.whole["waveform"].float(), method.whole["length"]
    method.prepare(from_waveforms(waveform, tones.SAMPLE_RATE, lengths=length))
    return method


def best_rq() -> Method:
    whole = sounds()
    data = from_waveforms(whole["waveform"].float(), tones.SAMPLE_RATE, lengths=whole["length"])
    encoder = encoders.fitted("mel-transformer-tiny", data, kind="audio")
    method = best_rq_method.BestRQ(encoder.eval(), codes=8, noise=0.0)
    method.prepare(data)
    method.whole = whole
    return method


def every_frame(frames: Tensor, size: int, allowed: Tensor, count: int) -> Tensor:
    """The first frames of the same sound, in a circle, the same whatever process has the sound."""
    return size * torch.arange(len(frames))[:, None] + torch.arange(count) % frames[:, None]


def cpc_audio() -> Method:
    encoder = encoders.build("cpc-tiny", kind="audio", sample_rate=tones.SAMPLE_RATE)
    method = cpc_audio_method.CPCAudio(encoder, ahead=4, negatives=6)
    method.whole = sounds()
    return method


def next_of_four(count: int) -> Tensor:
    """The next one of four neighbours, the same whatever process has them."""
    place = torch.arange(count)
    return place // 4 * 4 + (place + 1) % 4


def pase() -> Method:
    """Some sounds are too short for pairs, and others have more frames than others."""
    whole = sounds()
    data = from_waveforms(whole["waveform"].float(), tones.SAMPLE_RATE, lengths=whole["length"])
    method = pase_method.PASE(
        encoders.build("pase-tiny", kind="audio", sample_rate=tones.SAMPLE_RATE), hidden=8
    )
    method.prepare(method.training_view(data))
    method.whole = whole
    return method


def data2vec_audio() -> Method:
    encoder = encoders.build("wav2vec2-tiny", kind="audio", sample_rate=tones.SAMPLE_RATE)
    method = data2vec_audio_method.Data2VecAudio(encoder.eval(), layers=2, momentum=0.9)
    method.whole = sounds()
    return method


def data2vec_text() -> Method:
    method = Data2VecText(text_encoders.fitted("bert-tiny", texts(), length=24), momentum=0.9)
    method.encoder.eval()
    method.whole = blocks(method)
    x = method.encoder.inputs(method.whole)
    masked = method.mask(x)
    method.mask = lambda x: masked[rows()][:, : x.tokens.shape[1]]  # type: ignore[method-assign]
    return method


METHODS: dict[str, Callable[[], Method]] = {
    "data2vec_audio": data2vec_audio,
    "data2vec_text": data2vec_text,
    "bert": bert,
    "simcse": simcse,
    "electra": electra,
    "gpt": gpt,
    "neural_language_model": neural_language_model,
    "apc": apc,
    "wav2vec2": wav2vec2,
    "hubert": hubert,
    "best_rq": best_rq,
    "cpc_audio": cpc_audio,
    "pase": pase,
    "simclr": simclr,
    "moco": partial(moco, splits=1, symmetric=True),
    "seco": seco,
    "patch_tracking": patch_tracking,
    "byol": byol,
    "barlow_twins": partial(barlow_twins, dim=6),
    "barlow_twins of few samples": partial(barlow_twins, dim=SAMPLES + 1),
    "vicreg": partial(vicreg, dim=6),
    "vicreg of few samples": partial(vicreg, dim=SAMPLES + 1),
    "nnclr": nnclr,
    "lejepa": lejepa,
    "dino": dino,
    "ibot": partial(masked_distillation, IBOT),
    "dinov2": partial(masked_distillation, DINOv2, gram=2.0, gram_teacher=0.0, gram_from=0.5),
    "dinov2 by sinkhorn": partial(masked_distillation, DINOv2, balance="sinkhorn"),
    "pirl": partial(pirl, negatives=0),
    "pirl by noise": partial(pirl, negatives=5),
    "densecl": densecl,
    "swav": swav,
    "contrastive_pairs": partial(contrastive_pairs, normalize=True),
    "contrastive_pairs of any length": partial(contrastive_pairs, normalize=False),
    "triplet semi-hard": partial(triplet, "semi-hard"),
    "triplet hardest": partial(triplet, "hardest"),
    "moco_v3": partial(moco_v3, "conv4"),
    "moco_v3 of a ViT": partial(moco_v3, "vit-small"),
    "mae": partial(hidden_patches, MAE, decoder_dim=32),
    "simmim": partial(hidden_patches, SimMIM),
    "ijepa": partial(hidden_patches, IJEPA, momentum=0.9, predictor_dim=32, predictor_blocks=1),
    "data2vec": partial(hidden_patches, Data2Vec, momentum=0.9, layers=2),
    "beit": partial(hidden_patches, BEiT, codes=8),
    "instance_discrimination": partial(instance_discrimination, "softmax"),
    "instance_discrimination by noise": partial(instance_discrimination, "nce"),
    "noise_as_targets": noise_as_targets,
    "cpc": cpc,
    "colorization": colorization,
    "deepcluster": deepcluster,
    "context_encoder": context_encoder,
    "bigan": bigan,
    "audio_visual_correspondence": audio_visual,
    "time_contrastive triplets": partial(time_contrastive, "triplet"),
    "time_contrastive pairs": partial(time_contrastive, "npairs"),
    "trajectory_unmasking": trajectory,
    "video_colorization": video_colorization,
}


TOLERANCE = {"bert": 1e-6, "gpt": 1e-6, "neural_language_model": 1e-6, "apc": 1e-6}
"""Relative, where a loss is computed in float32 whatever the network; 1e-9 elsewhere."""


def rows() -> Tensor:
    """Numbers of the samples of this process."""
    return gather.own(torch.arange(SAMPLES))


def pictures(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.randint(256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


class Plain(Method):
    """A loss of each sample alone that draws nothing, in the real loop; it remembers what it was shown."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__(encoder)
        self.head = nn.Linear(self.encoder.dim, 3)
        self.double()
        self.shown: list[Tensor] = []

    def forward(self, batch: State) -> Tensor:
        self.shown.append(batch["index"])
        images = self.encoder.inputs(batch)
        return (self.head(self.encoder(images)) - images.mean((2, 3))).square().mean()


class Compared(Plain):
    """A loss that compares the samples of a batch."""

    compares_samples = True

    def forward(self, batch: State) -> Tensor:
        self.shown.append(batch["index"])
        images = self.encoder.inputs(batch)
        first, second = self.head(self.encoder(torch.cat([images, images.flip(3)]))).chunk(2)
        return nt_xent(first, second, 0.5)


def without_norms() -> nn.Module:
    layers = nn.Linear(3 * SIZE**2, 8), nn.Tanh(), nn.Linear(8, 8)
    return encoders.wrap(nn.Sequential(nn.Flatten(), *layers), image_size=SIZE)


LOOPS: dict[str, tuple[type[Plain], Callable[[], nn.Module], int, int]] = {
    "plain": (Plain, without_norms, 8, 1),
    "plain in halves": (Plain, without_norms, 4, 2),
    "compared": (Compared, build, 8, 1),
    "compared in halves": (Compared, build, 4, 2),
}


def loop(name: str, out: Path) -> State:
    """What `pretrain` shows a method in 2 epochs of 19 samples, and the weights and statistics at the end."""
    kind, network, batch_size, accumulate = LOOPS[name]
    torch.manual_seed(0)
    method = kind(network())
    settings: dict[str, Any] = {"batch_size": batch_size, "accumulate": accumulate, "epochs": 2, "lr": 0.1}
    pretrain(method, pictures(19), out=out / name, quiet=True, device="cpu", optimizer="sgd", **settings)
    return {"shown": torch.stack(method.shown)} | {k: v.clone() for k, v in method.state_dict().items()}


def watched(out: Path) -> tuple[State, list[float]]:
    """Losses on held-out samples, and the state at the end, of a training with clipped gradients; tracked losses."""
    torch.manual_seed(0)
    method = Plain(without_norms())
    tracked: list[dict[str, Any]] = []
    active = SimpleNamespace(id="1", log=tracked.append)
    settings: dict[str, Any] = {
        "track": "wandb",
        "batch_size": 8,
        "epochs": 3,
        "lr": 0.1,
        "holdout": 0.27,
        "clip": 0.05,
    }  # two batches of 8, which 2 and 4 processes can share
    with patch.dict(sys.modules, wandb=SimpleNamespace(run=active)):
        run = pretrain(
            method, pictures(60), out=out / "watched", quiet=True, device="cpu", optimizer="sgd", **settings
        )
    losses = torch.tensor([entry["holdout_loss"] for entry in run.history], dtype=torch.double)
    state = {"losses": losses} | {k: v.clone() for k, v in method.state_dict().items()}
    return state, [values["holdout_loss"] for values in tracked]


def write_shards(folder: Path) -> None:
    """Tar files of unequally many images, of which the last one of each is broken."""
    folder.mkdir()
    images = iter(pictures(46))
    for shard, count in enumerate((14, 5, 19, 8)):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for row in range(count):
                stream = io.BytesIO()
                Image.fromarray(next(images).permute(1, 2, 0).numpy()).save(stream, "png")
                member = tarfile.TarInfo(f"{row:02}.png")
                member.size = len(content := stream.getvalue()[: 60 if row == count - 1 else None])
                archive.addfile(member, io.BytesIO(content))


def streamed(out: Path) -> State:
    """What `pretrain` shows a method in 3 epochs of streamed samples, its state at the end, and what was replaced."""
    torch.manual_seed(0)
    method = Plain(without_norms())
    shards = (out if (out / "shards").is_dir() else out.parent) / "shards"
    settings: dict[str, Any] = {"batch_size": 4, "accumulate": 2, "epochs": 3, "workers": 1, "stream": True}
    run = pretrain(
        method, shards, out=out / "streamed", quiet=True, device="cpu", optimizer="sgd", **settings
    )
    lost = [line.split(",")[0][-12:] for line in (run.path / "skipped.csv").read_text().splitlines()[1:]]
    broken = {f"lost {name}": torch.tensor(1) for name in lost}
    pieces = {"pieces": torch.tensor(run.config["settings"]["pieces"])}
    return {"shown": torch.stack(method.shown)} | broken | pieces | dict(method.state_dict())


def train(make: Callable[[], Method], synchronized: bool = True) -> dict[str, State]:
    """Gradients of every step, and the state at the end, of a short training."""
    torch.manual_seed(0)
    method = make().double()
    whole: State = getattr(method, "whole", {})
    module: nn.Module = method
    if gather.processes() > 1:
        module = DistributedDataParallel(synchronize(method) if synchronized else method)
    parameters = {name: value for name, value in method.named_parameters() if value.requires_grad}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.05, momentum=0.9, weight_decay=0.01)
    gradients: State = {}
    for step in range(STEPS):
        torch.manual_seed(100 * step + gather.rank())
        optimizer.zero_grad()
        losses = module({"index": rows()} | {name: value[rows()] for name, value in whole.items()})
        (torch.stack(list(losses.values())).sum() if isinstance(losses, dict) else losses).backward()
        for name, value in parameters.items():
            assert value.grad is not None
            gradients[f"{step} {name}"] = value.grad.clone()
        optimizer.step()
        method.after_step((step + 1) / STEPS)
    return {
        "gradients": gradients,
        "state": {name: value.clone() for name, value in method.state_dict().items()},
    }


def norms() -> dict[str, State]:
    """Outputs, gradients and statistics of norms in a network with a loss over the own rows."""
    results: dict[str, State] = {}
    torch.manual_seed(0)
    for name, norm, shape in [
        ("vectors", nn.BatchNorm1d(4), (SAMPLES, 4)),
        ("maps", nn.BatchNorm2d(4), (SAMPLES, 4, 3, 3)),
        ("volumes", nn.BatchNorm3d(4, momentum=None), (SAMPLES, 4, 2, 2, 2)),
        ("plain", nn.BatchNorm1d(4, affine=False, track_running_stats=False), (SAMPLES, 4)),
    ]:
        inputs, goals = 3 * torch.randn(shape).double() + 7, torch.randn(shape).double()
        values = inputs[rows()].requires_grad_()
        norm = norm.double()
        if gather.processes() > 1:
            synchronize(norm)
        norm(values)
        outputs = norm(values)
        loss = (outputs - goals[rows()]).square().flatten(1).sum(1).mean()
        found = torch.autograd.grad(loss, [values, *norm.parameters()])
        evaluated = norm.eval()(values)
        results[name] = {"outputs": outputs.detach(), "evaluated": evaluated.detach(), "input": found[0]}
        results[name] |= {f"gradient {number}": gradient for number, gradient in enumerate(found[1:])}
        results[name] |= norm.state_dict()
    return results


def collectives() -> State:
    """A loss that compares own rows with all rows, and what the collectives return."""
    torch.manual_seed(0)
    everyone = torch.randn(SAMPLES, 3, 2, 2).double().to(memory_format=torch.channels_last)
    own = everyone[rows()].requires_grad_()
    gathered = gather.gather(own)
    loss = (torch.cdist(own.flatten(1), gathered.flatten(1) + 1) ** 3).mean()
    total = gather.sum_over_processes(own.sum((0, 2, 3)) / SAMPLES)
    loss = loss + (total.exp() * (own.mean((2, 3)) + 1)).sum(1).mean()
    loss.backward()
    assert own.grad is not None
    number = torch.tensor([gather.rank() + 5])
    return {
        "gathered": gathered.detach(),
        "gradient": own.grad,
        "total": total.detach(),
        "first": gather.broadcast(number),
    }


SMALL = {
    "conv4": partial(stages.conv4, share=4),
    "vit-small": partial(from_timm.vit_small, blocks=2, width=48),
    "vit-gap-tiny": partial(from_timm.vit_small, blocks=2, width=48, gap=True),
}
"""Networks of the same layers as those of these names, but narrow."""


@patch.dict(images.NAMES, SMALL)
def everything(folder: Path) -> dict[str, Any]:
    pairs = patch.object(audio_visual_correspondence, "others", among_four)
    masks = [
        patch.object(module, "spans", every_third)
        for module in (hubert_method, best_rq_method, data2vec_audio_method)
    ]
    negatives = patch.object(wav2vec2_method, "negatives", next_ones)
    frames = patch.object(cpc_audio_method, "draw", every_frame)
    sounds_of_pairs = patch.object(pase_method, "another", next_of_four)
    chosen = patch.object(tokens, "choose", every_third_piece)
    hidden = patch.object(electra_method, "MASKED", 1.0)
    with pairs, masks[0], masks[1], masks[2], negatives, frames, sounds_of_pairs, chosen, hidden:
        results: dict[str, Any] = {name: train(make) for name, make in METHODS.items()}
    results["loops"] = {name: loop(name, folder) for name in LOOPS}
    results["watched"], results["tracked"] = watched(folder)
    results["streamed"] = streamed(folder)
    with patch.object(shuffle, "SMALLEST_GROUP", 2):  # else these few samples would not be split
        for groups in (1,) if gather.processes() > 1 else (2, 4):
            found = train(partial(moco, splits=groups, symmetric=False), synchronized=False)
            results[f"moco in {gather.processes() * groups} groups"] = found
        results["moco as trained"] = train(partial(moco, splits=4, symmetric=False))
    return results | {"norms": norms(), "collectives": collectives()}


def asked_to_stop(folder: Path) -> dict[str, Any]:
    """What a process hears, and the steps of the checkpoint, when the first one alone gets a signal amid an epoch."""

    def ask(step: int) -> None:
        if step == 1 and gather.rank() == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    settings: dict[str, Any] = {"batch_size": 8, "steps": 1000, "on_step": ask, "device": "cpu"}
    with pytest.raises(KeyboardInterrupt) as heard:
        pretrain(Plain(without_norms()), pictures(60), out=folder / "stopped", quiet=True, **settings)
    state, position = read_checkpoint(folder / "stopped" / CHECKPOINT)
    return {"heard": str(heard.value), "step": position["step"], "saved": "optimizer" in state}


def work(rank: int, count: int, folder: Path) -> None:
    """Write down what one of so many processes finds; one more process does so alone."""
    torch.set_num_threads(1)
    if rank == count:
        torch.save(everything(folder / "alone"), folder / f"{rank}.pt")
        return
    # What torchrun would say to the loop.
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count), "WORLD_SIZE": str(count)}
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", meeting, timedelta(seconds=60), world_size=count, rank=rank)
    found = everything(folder) | {"stopped": asked_to_stop(folder)}
    (folder / f"node{rank}").mkdir()
    os.chdir(folder / f"node{rank}")
    with pytest.raises(ValueError) as refused:
        pretrain(Plain(without_norms()), pictures(16), out="run", quiet=True, device="cpu", batch_size=8)
    torch.save(found | {"refused": str(refused.value)}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def start(count: int, folder: Path) -> None:
    """Start the processes from one that has imported what takes long, and computed no gradient, which they inherit."""
    torch.set_num_threads(1)
    for name in ("bert", "mae", "noise_as_targets"):  # import more when they are built
        METHODS[name]()
    write_shards(folder / "shards")
    how = "fork" if sys.platform == "linux" else "spawn"
    start_processes(work, (count, folder), nprocs=count + 1, start_method=how)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.golden)])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fresh_process: Any
) -> list[dict[str, Any]]:
    """What each of two or four processes found, and then what one found alone."""
    count = request.param
    folder = tmp_path_factory.mktemp("several")
    ended = fresh_process(start, count, folder, seconds=SECONDS)
    assert ended.code == 0, ended.said
    return [torch.load(folder / f"{rank}.pt") for rank in range(count + 1)]


@pytest.fixture(scope="module")
def several(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each of two or four processes found."""
    return found[:-1]


@pytest.fixture(scope="module")
def one(found: list[dict[str, Any]]) -> dict[str, Any]:
    """What one process finds."""
    return found[-1]


def assert_same(found: State, expected: State, tolerance: float = 1e-9) -> None:
    assert found.keys() == expected.keys() and expected
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=0.1 * tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_all_methods_that_compare_samples_are_tested() -> None:
    """All but one, which compares an image with a random other one of its own process."""
    compared = {name for name in registry.names() if registry.load(name).compares_samples}
    assert compared - {name.split()[0] for name in METHODS} == {"counting"}


@pytest.mark.parametrize("name", METHODS)
def test_several_processes_have_the_gradients_of_one(
    name: str, one: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    assert max(gradient.abs().max().item() for gradient in one[name]["gradients"].values()) > 1e-3
    for process in several:
        assert_same(process[name]["gradients"], one[name]["gradients"], TOLERANCE.get(name, 1e-9))


@pytest.mark.parametrize("name", METHODS)
def test_several_processes_end_in_the_state_of_one(
    name: str, one: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    """Parameters, teachers, queues, prototypes, running statistics."""
    for process in several:
        assert_same(process[name]["state"], one[name]["state"], TOLERANCE.get(name, 1e-9))


@pytest.mark.parametrize("name", LOOPS)
def test_the_loop_of_several_processes_is_that_of_one(
    name: str, one: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    """Batches are always whole: what fills none is left for another epoch, so all processes have equally many."""
    expected = dict(one["loops"][name])
    passes = expected.pop("shown").view(2, -1)  # 16 of 19 samples in each of two epochs
    assert passes.shape == (2, 16) and all(len(epoch.unique()) == 16 for epoch in passes)
    shown = [process["loops"][name].pop("shown") for process in several]
    assert torch.equal(torch.cat(shown, 1).view(2, 16), passes)
    for process in several:
        assert_same(process["loops"][name], expected)


def test_streamed_batches_of_several_processes_are_those_of_one(
    one: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    """Each process reads its own pieces; what cannot be decoded is listed by all together."""
    expected = dict(one["streamed"])
    passes = expected.pop("shown").view(3, 40)  # 40 of 46 samples in each of three epochs
    assert all(len(epoch.unique()) == 40 for epoch in passes) and len(passes.unique()) > 40
    assert int(expected["pieces"]) == 4 and {"lost 0.tar/13.png", "lost 3.tar/07.png"} <= expected.keys()
    shown = [process["streamed"].pop("shown") for process in several]
    assert torch.equal(torch.cat(shown, 1).view(3, 40), passes)
    for process in several:
        assert_same(process["streamed"], expected)


def test_held_out_losses_and_clipping_of_several_processes_are_those_of_one(
    one: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    losses = one["watched"]["losses"]
    assert len(losses) == 3 and losses[0] > losses[1] > losses[2]
    for process in several:
        assert_same(process["watched"], one["watched"])


def test_only_the_first_process_tracks(one: dict[str, Any], several: list[dict[str, Any]]) -> None:
    assert one["tracked"] == one["watched"]["losses"].tolist() and len(one["tracked"]) == 3
    assert several[0]["tracked"] == several[0]["watched"]["losses"].tolist()
    assert not any(process["tracked"] for process in several[1:])


def test_a_folder_that_only_the_first_node_sees_is_refused_by_all(several: list[dict[str, Any]]) -> None:
    message = "out must be in a folder that all nodes share, got run, which some do not see"
    assert [process["refused"] for process in several] == [message] * len(several)


def test_processes_that_do_not_reach_each_other_are_told_what_to_set(tmp_path: Path) -> None:
    refused = RuntimeError("Gloo connectFullMesh failed with timed out connecting: remote=[127.0.0.1]:37295")
    with patch("lightning_fabric.Fabric.launch", side_effect=refused), pytest.raises(ConnectionError) as told:
        pretrain(Plain(without_norms()), pictures(16), out=tmp_path, quiet=True, device="cpu")
    assert "GLOO_SOCKET_IFNAME must name the network interface" in str(told.value)


def test_halves_of_a_batch_are_the_whole_where_no_samples_are_compared(one: dict[str, Any]) -> None:
    """Of losses that compare samples each half, over all processes, compares its own only: their mean is descended."""
    loops = {name: {k: v for k, v in found.items() if k != "shown"} for name, found in one["loops"].items()}
    assert_same(loops["plain in halves"], loops["plain"])
    with pytest.raises(AssertionError):
        assert_same(loops["compared in halves"], loops["compared"], 1e-3)


@pytest.mark.parametrize("name", ["moco", "moco as trained", "swav", "nnclr", "densecl"])
def test_queues_are_bit_equal_in_all_processes(name: str, several: list[dict[str, Any]]) -> None:
    first, *others = (process[name]["state"] for process in several)
    queues = [key for key in first if key.startswith("queue")]
    assert queues and all(torch.equal(first[key], other[key]) for key in queues for other in others)


def test_processes_with_own_norms_are_the_groups_of_one_process(
    one: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    """The shuffling reaches over the processes: keys meet other images in the norms than their queries do."""
    name = f"moco in {len(several)} groups"
    for process in several:
        found, expected = process[name], one[name]
        assert_same(found["gradients"], expected["gradients"])
        assert_same({"rows": found["state"]["queue.rows"]}, {"rows": expected["state"]["queue.rows"]})


def test_groups_with_synchronized_norms_have_one_finite_gradient(several: list[dict[str, Any]]) -> None:
    """The setting of a real training on several devices."""
    first, *others = (process["moco as trained"]["gradients"] for process in several)
    for name, gradient in first.items():
        assert gradient.isfinite().all() and all(torch.equal(gradient, other[name]) for other in others)
    name = "0 encoder.trunk.s1.0.weight"
    assert not torch.allclose(first[name], several[0]["moco"]["gradients"][name], rtol=1e-3)


def test_groups_change_the_gradients_so_that_the_test_above_is_not_vacuous(one: dict[str, Any]) -> None:
    name = "0 encoder.trunk.s1.0.weight"
    assert not torch.allclose(
        one["moco in 2 groups"]["gradients"][name], one["moco"]["gradients"][name], rtol=1e-3
    )


def test_synchronized_norms_equal_batch_norm_on_the_whole_batch(
    one: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    for name, expected in one["norms"].items():
        found = dict(several[0]["norms"][name])
        for key in ("outputs", "evaluated", "input"):
            found[key] = torch.cat([process["norms"][name][key] for process in several])
        found["input"] = found["input"] / len(
            several
        )  # each process divides its loss by its own rows, the mean comes later
        for key in found:
            if key.startswith("gradient"):
                found[key] = torch.stack([process["norms"][name][key] for process in several]).mean(0)
        assert_same(found, expected)


def test_gathered_rows_are_in_order_and_their_gradient_is_exact(
    one: dict[str, Any], several: list[dict[str, Any]]
) -> None:
    expected = one["collectives"]
    for process in several:
        assert torch.equal(process["collectives"]["gathered"], expected["gathered"])
        torch.testing.assert_close(process["collectives"]["total"], expected["total"])
        assert process["collectives"]["first"].item() == 5
    gradient = torch.cat([process["collectives"]["gradient"] for process in several]) / len(several)
    torch.testing.assert_close(gradient, expected["gradient"], rtol=1e-12, atol=1e-14)


def test_a_signal_to_one_process_stops_all_and_saves(several: list[dict[str, Any]]) -> None:
    """Schedulers signal the first process only; the others must not wait for it for ever."""
    for process in several:
        assert process["stopped"]["heard"].startswith("stopped after step 2; --resume continues from ")
        assert process["stopped"]["step"] == 2 and process["stopped"]["saved"]


@pytest.mark.golden
def test_a_signal_to_one_process_of_a_command_stops_both_and_saves(tmp_path):
    words = "pretrain simclr digits --encoder conv4 --batch-size 16 --steps 100000 --device cpu --devices 2"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UNLABELED_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "unlabeled", *words.split(), "--out", str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(1800):  # seconds on a machine of its own, minutes on one that is shared
            if (out / "log.jsonl").is_file():
                break
            time.sleep(0.1)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "stopped after step" in errors
    state, position = read_checkpoint(out / "checkpoint.safetensors")
    assert position["step"] >= 79 and "optimizer" in state


OFTEN = """
from unlabeled.cli import main
from unlabeled.training import checkpoints

checkpoints.SECONDS_BETWEEN_CHECKPOINTS = 0.2
if __name__ == "__main__":
    main()
"""
WORDS = "pretrain simclr digits --encoder conv4 --batch-size 16 --steps 120 --device cpu --out run".split()  # noqa: SIM905
LOGGED = "loss", "spread", "rank", "cosine"
MINUTE = 60


def started(
    folder: Path, *launcher: str, more: Sequence[str] = (), script: str = OFTEN, **environment: str
) -> subprocess.Popen[bytes]:
    """Start a run in a folder as users do, but by a script of ours; what it says stands in `said`."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(script)
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            [*launcher, str(folder / "script.py"), *WORDS, *more],
            cwd=folder,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "UNLABELED_CACHE": str(folder / "cache"),
                **environment,
            },
            stdout=said,
            stderr=subprocess.STDOUT,
        )


def launched(folder: Path, launcher: str, *more: str, script: str = OFTEN) -> subprocess.Popen[bytes]:
    """Start a run of two processes of one machine."""
    if launcher == "--devices":
        return started(folder, sys.executable, more=["--devices", "2", *more])
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return started(folder, *words, more=more, script=script)


def finished(process: subprocess.Popen[bytes], folder: Path) -> dict[str, State]:
    """The last checkpoint and the log of a run that must end well."""
    try:
        assert process.wait(SECONDS) == 0, (folder / "said").read_text()[-2000:]
    finally:
        process.kill()
    log = {
        str(entry["step"]): torch.tensor([entry[name] for name in LOGGED])
        for entry in Run(folder / "run").history
    }
    return {"log": log} | read_checkpoint(folder / "run" / CHECKPOINT)[0]


def children(process: subprocess.Popen[bytes]) -> list[int]:
    """Numbers of the processes that it has started, the first one first."""
    return list(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_bits(found: dict[str, State], expected: dict[str, State]) -> None:
    assert found.keys() == expected.keys()
    for group, tensors in expected.items():
        for key, tensor in tensors.items():
            assert torch.equal(found[group][key], tensor), f"{group} {key}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return finished(launched(folder, "--devices"), folder)


def said_without(
    victim: int, process: subprocess.Popen[bytes], folder: Path, launcher: str, sign: Path
) -> str:
    """What is said until all have ended, when one of two processes is killed as soon as a file is there."""
    said, ranks = folder / "said", []
    try:
        deadline = time.monotonic() + SECONDS
        while not sign.is_file():
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.05)
        ranks = children(process) if launcher == "torchrun" else [process.pid, *children(process)]
        assert len(ranks) == 2
        os.kill(ranks[victim], signal.SIGKILL)
        killed = time.monotonic()
        while process.poll() is None or any(map(runs, ranks)):
            assert time.monotonic() - killed < MINUTE, said.read_text()
            time.sleep(0.05)
    finally:
        for pid in filter(runs, [process.pid, *ranks]):
            os.kill(pid, signal.SIGKILL)
    assert process.returncode != 0 and "gloo" not in said.read_text()
    return said.read_text()


@pytest.mark.golden
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
@pytest.mark.parametrize("launcher", ["--devices", "torchrun"])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_with_a_word_and_the_run_resumes_to_the_same_bits(
    launcher: str, victim: int, undisturbed: dict[str, State], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run" / CHECKPOINT
    said = said_without(victim, launched(tmp_path, launcher), tmp_path, launcher, checkpoint)
    assert (
        "unlabeled: lost another of the 2 processes, killed or stopped by its own error, after step" in said
    )
    assert "--resume continues from it" in said
    assert read_checkpoint(checkpoint)[1]["step"] < 120
    assert_bits(finished(launched(tmp_path, launcher, "--resume"), tmp_path), undisturbed)


GATHERING = f"""{OFTEN.partition("if __name__")[0]}
import time
from pathlib import Path
from unlabeled.training import sharding

whole = sharding.whole

def slowly(state, everywhere=False):
    if Path("run/log.jsonl").is_file():
        Path("moment").touch()
        time.sleep(1)
    return whole(state, everywhere)

sharding.whole = slowly
if __name__ == "__main__":
    main()
"""
WRITING = f"""{OFTEN.partition("if __name__")[0]}
import os, time
from pathlib import Path

replace = os.replace

def slowly(source, target):
    if Path(target).name == "checkpoint.safetensors" and Path("run/log.jsonl").is_file():
        Path("moment").touch()
        time.sleep(1)
    replace(source, target)

os.replace = slowly
if __name__ == "__main__":
    main()
"""
FSDP = "--devices", "2", "--strategy", "fsdp"


@pytest.fixture(scope="module")
def undisturbed_shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return finished(started(folder, sys.executable, more=FSDP), folder)


@pytest.mark.golden
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
@pytest.mark.parametrize(
    ("script", "sign", "victim", "resumed"),
    [
        (OFTEN, "run/log.jsonl", 0, FSDP),
        (GATHERING, "moment", 1, FSDP),
        (GATHERING, "moment", 0, ("--devices", "2", "--strategy", "ddp")),
        (WRITING, "moment", 0, ("--strategy", "fsdp")),
        (WRITING, "moment", 1, ("--devices", "1", "--strategy", "ddp")),
    ],
    ids=["training", "gathering other", "gathering", "writing", "writing other"],
)
def test_shards_outlive_a_killed_process_in_the_last_checkpoint_which_any_strategy_resumes(
    script: str,
    sign: str,
    victim: int,
    resumed: Sequence[str],
    undisturbed_shards: dict[str, State],
    tmp_path: Path,
) -> None:
    process = started(tmp_path, sys.executable, more=FSDP, script=script)
    said = said_without(victim, process, tmp_path, "--devices", tmp_path / sign)
    assert said.count("unlabeled: lost another of the 2 processes, killed or stopped by its own error, ") == 1
    assert "--resume continues from it" in said
    state, position = read_checkpoint(tmp_path / "run" / CHECKPOINT)
    assert position["step"] < 120 and state.keys() == undisturbed_shards.keys() - {"log"}
    resumed_state = finished(started(tmp_path, sys.executable, more=[*resumed, "--resume"]), tmp_path)
    assert read_checkpoint(tmp_path / "run" / CHECKPOINT)[1]["step"] == 120
    if resumed == FSDP:
        assert_bits(resumed_state, undisturbed_shards)
    for group, tensors in undisturbed_shards.items():
        assert {key: value.shape for key, value in resumed_state[group].items()} == {
            key: value.shape for key, value in tensors.items()
        }


def act(how: str, rank: int) -> str:
    """What the first of two processes does before the loop, while the other waits, or the other while it does."""
    if how == "long" and rank == 0:
        time.sleep(2.5)
    if how == "fails" and rank == 0:
        raise RuntimeError("broken decoder")
    if (how, rank) in (("dies", 0), ("other dies", 1)):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "interrupted" and rank == 1:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    if how == "other dies" or (how, rank) == ("interrupted", 0):
        time.sleep(SECONDS)
    return "done"


def meet(how: str, rank: int, folder: Path) -> None:
    """Act at once with another process, on connections that are given up after a second; write down what is heard."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # Ignored as in jobs that run in the background, but where it is to be heard.
    before = signal.default_int_handler if (how, rank) == ("interrupted", 1) else signal.SIG_IGN
    signal.signal(signal.SIGINT, before)
    fabric: Any = SimpleNamespace(local_rank=rank)
    dist.init_process_group(
        "gloo", f"file://{folder / 'meeting'}", timedelta(seconds=1), world_size=2, rank=rank
    )
    with patch.object(processes, "SECONDS_BETWEEN_SIGNS", 0.1):
        try:
            with processes.together(fabric, lambda: "before the training began"), processes.at_once():
                heard = act(how, rank)
        except (Exception, KeyboardInterrupt) as error:
            heard = f"{type(error).__name__}: {error}"
    assert signal.getsignal(signal.SIGINT) == before
    (folder / f"writing{rank}").write_text(heard)
    (folder / f"writing{rank}").rename(folder / f"heard{rank}")  # so that it is never read half written
    time.sleep(SECONDS if how == "fails" and rank == 0 else 0.5)  # it need not end for the other to hear


LOST = "ConnectionError: lost another of the 2 processes, killed or stopped by its own error, before the training"
HEARD = {
    "long": {0: "done", 1: "done"},
    "fails": {0: "RuntimeError: broken decoder", 1: f"{LOST} began"},
    "dies": {1: f"{LOST} began"},
    "other dies": {0: f"{LOST} began"},
    "interrupted": {0: f"{LOST} began", 1: "KeyboardInterrupt: "},
}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="forks")
@pytest.mark.parametrize("how", HEARD)
def test_processes_wait_for_each_other_however_long_and_hear_of_a_loss_at_once(
    how: str, tmp_path: Path
) -> None:
    forked = [
        multiprocessing.get_context("fork").Process(target=meet, args=(how, rank, tmp_path))
        for rank in range(2)
    ]
    try:
        for process in forked:
            process.start()
        wanted, heard = HEARD[how], {}
        deadline = time.monotonic() + MINUTE
        while len(heard) < len(wanted):
            assert time.monotonic() < deadline, heard
            time.sleep(0.05)
            heard = {
                rank: file.read_text() for rank in range(2) if (file := tmp_path / f"heard{rank}").is_file()
            }
        assert heard == wanted
    finally:
        for process in forked:
            process.kill()
            process.join()


SLOW = """
import os, time
from pathlib import Path
from unlabeled.cli import main
from unlabeled.training import train

opened = train.open_data

def slowly(*arguments, **options):
    if os.environ.get("LOCAL_RANK", "0") == "0":
        Path("decoding").touch()
        time.sleep(60)
    return opened(*arguments, **options)

train.open_data = slowly
if __name__ == "__main__":
    main()
"""


@pytest.mark.golden
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_a_process_that_is_killed_while_it_decodes_ends_the_other_with_a_word(tmp_path: Path) -> None:
    process = launched(tmp_path, "torchrun", script=SLOW)
    said = said_without(0, process, tmp_path, "torchrun", tmp_path / "decoding")
    assert said.count(f"unlabeled: {LOST.partition(': ')[2]} began\n") == 1


LATE = """
import os, time
from unlabeled.cli import main
from unlabeled.training import plan

resumed = plan.resumed

def late(*arguments):
    if os.environ.get("LOCAL_RANK") == "1":
        time.sleep(5)
    return resumed(*arguments)

plan.resumed = late
if __name__ == "__main__":
    main()
"""


@pytest.mark.golden
def test_a_run_is_not_rewritten_as_longer_before_every_process_has_read_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(LATE)
    words = "pretrain rotnet digits --encoder conv4 --device cpu --out run --devices 2".split()  # noqa: SIM905
    for more in (["--steps", "1"], ["--steps", "2", "--resume"]):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "script.py", *words, *more]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=SECONDS)
    assert Run(tmp_path / "run").config["ends"] == [1] and Run(tmp_path / "run").history[-1]["step"] == 2


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """Names of two network namespaces with a cable between them: two machines, as far as a network can tell."""
    names = [f"unlabeled-{os.getpid()}-{number}" for number in range(2)]
    first, second = names
    words = [f"netns add {first}", f"netns add {second}"]
    words += [f"link add cable netns {first} type veth peer name cable netns {second}"]
    for number, name in enumerate(names, 1):
        words += [f"-n {name} addr add 10.213.0.{number}/24 dev cable"]
        words += [f"-n {name} link set {device} up" for device in ("lo", "cable")]
    try:
        for line in words:
            try:
                subprocess.run(["ip", *line.split()], check=True, capture_output=True, text=True)
            except FileNotFoundError:
                pytest.skip("network namespaces need the command ip")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: ip {line}: {error.stderr.strip()}")
        yield names
    finally:
        if shutil.which("ip"):
            for name in names:
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.golden
def test_torchrun_on_two_nodes_trains_as_two_processes_of_one(
    nodes: list[str], undisturbed: dict[str, State], tmp_path: Path
) -> None:
    """Each node has a cache of its own; they share the folder of the run."""
    processes = []
    try:
        for rank, name in enumerate(nodes):
            words = f"--nnodes 2 --node-rank {rank} --nproc-per-node 1 --master-addr 10.213.0.1 --master-port 29500"
            within = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
            own = {"GLOO_SOCKET_IFNAME": "cable", "UNLABELED_CACHE": str(tmp_path / f"cache{rank}")}
            processes.append(started(tmp_path, *within, *words.split(), **own))
        found = finished(processes[0], tmp_path)
        assert processes[1].wait(SECONDS) == 0
    finally:
        for process in processes:
            process.terminate()
    assert_bits(found, undisturbed)
    settings = tomllib.loads((tmp_path / "run" / "run.toml").read_text())["settings"]
    assert (settings["nodes"], settings["devices"]) == (2, 1)


@pytest.mark.golden
def test_two_processes_fit_the_features_of_their_run(tmp_path: Path) -> None:
    script = OFTEN.replace("0.2", "60")
    words = ["--encoder", "dictionary-16", "--steps", "2", "--features", "contrast"]
    with patch(f"{__name__}.WORDS", ["pretrain", "patch_dictionary", "digits", "--out", "run"]):
        process = started(tmp_path, sys.executable, more=["--devices", "2", *words], script=script)
    finished(process, tmp_path)
    assert type(Run(tmp_path / "run").encoder).__name__ == "Readout"
