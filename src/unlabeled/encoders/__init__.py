"""Encoders: the networks that a run keeps, one module for each kind of data that they read."""

from unlabeled.encoders.audio import AudioEncoder
from unlabeled.encoders.audio_visual import AudioVisualEncoder
from unlabeled.encoders.building import KINDS, build, fitted, load, names, pretrained, rebuilt
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.first_layer import fill_first_layer_
from unlabeled.encoders.image import OWN_NETWORK, ImageEncoder, fit, require_name
from unlabeled.encoders.libraries import Pretrained, Unreachable, find
from unlabeled.encoders.readout import Readout, fit_readout
from unlabeled.encoders.rescaled import rescale_
from unlabeled.encoders.text import TextEncoder
from unlabeled.encoders.user_network import is_named, refuse_fixed, wrap
from unlabeled.encoders.video import VideoEncoder
from unlabeled.encoders.word_vectors import WordEncoder

__all__ = [
    "KINDS",
    "OWN_NETWORK",
    "AudioEncoder",
    "AudioVisualEncoder",
    "Encoder",
    "ImageEncoder",
    "Pretrained",
    "Readout",
    "TextEncoder",
    "Unreachable",
    "VideoEncoder",
    "WordEncoder",
    "build",
    "fill_first_layer_",
    "find",
    "fit",
    "fit_readout",
    "fitted",
    "is_named",
    "load",
    "names",
    "pretrained",
    "rebuilt",
    "refuse_fixed",
    "require_name",
    "rescale_",
    "wrap",
]
