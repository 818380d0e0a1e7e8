"""What a model computes inside, collected from texts, and control vectors made from it.

activations.py   layer outputs of many texts, in arrays and in .npz files
directions.py    from two sets of rows to a direction, and how well it tells them apart
training.py      control vectors from contrastive texts or labelled activations
"""

from .activations import Activations, capture_activations
from .directions import LayerQuality
from .training import TrainedVector, fit_control_vector, fit_labelled, train_control_vector

__all__ = [
    "Activations",
    "LayerQuality",
    "TrainedVector",
    "capture_activations",
    "fit_control_vector",
    "fit_labelled",
    "train_control_vector",
]
