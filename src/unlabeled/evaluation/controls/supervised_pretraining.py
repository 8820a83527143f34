"""Supervised pre-training: the same network trained on the images of the run with their labels, for as many steps.

It sees every label of the pre-training set: it does not show what few labels can do, but what pre-training without
labels gives away. It is trained by `evaluation.supervised_pretraining`, about as long as the run was.
"""

from unlabeled.evaluation.control import Control

__all__ = ["CONTROL"]

CONTROL = Control(None, ("image",), row=11, default=False)
