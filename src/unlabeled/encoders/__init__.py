"""Encoders: the networks that a run keeps, one module for each kind of data that they read."""

from unlabeled.encoders.audio import AudioEncoder
from unlabeled.encoders.audio_visual import AudioVisualEncoder
from unlabeled.encoders.building import KINDS, build, fitted, load, names, rebuilt
from unlabeled.encoders.encoder import Encoder
from unlabeled.encoders.first_layer import fill_first_layer_
from unlabeled.encoders.image import OWN_NETWORK, ImageEncoder, fit
from unlabeled.encoders.readout import Readout, fit_readout
from unlabeled.encoders.rescaled import rescale_
from unlabeled.encoders.text import TextEncoder
from unlabeled.encoders.user_network import is_named, wrap
from unlabeled.encoders.video import VideoEncoder
from unlabeled.encoders.word_vectors import WordEncoder

__all__ = [
    "KINDS",
    "OWN_NETWORK",
    "AudioEncoder",
    "AudioVisualEncoder",
    "Encoder",
    "ImageEncoder",
    "Readout",
    "TextEncoder",
    "VideoEncoder",
    "WordEncoder",
    "build",
    "fill_first_layer_",
    "fit",
    "fit_readout",
    "fitted",
    "is_named",
    "load",
    "names",
    "rebuilt",
    "rescale_",
    "wrap",
]
