"""A run as others can use it: a folder with the encoder, its scores and a model card, and its place on the Hub."""

from unlabeled.publishing.published import Published, publish

__all__ = ["Published", "publish"]
