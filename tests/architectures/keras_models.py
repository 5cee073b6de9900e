"""Keras 3 models on the torch backend: their single weights can be compressed, but their channels cannot be traced."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
from architectures.entry import Architecture, numbers, tokens
from keras import layers
from torch import nn

_WHY = "the tracer sees none of the model's parameters"


def convolutional() -> nn.Module:
    keras.utils.clear_session()  # names count up from one model to the next
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.DepthwiseConv2D(3),
            layers.Conv2D(16, 1),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def transformer() -> nn.Module:
    keras.utils.clear_session()
    ids = keras.Input((6,), dtype="int32")
    x = layers.Embedding(60, 16)(ids)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 4)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, activation="gelu")(x)))
    return keras.Model(ids, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def recurrent() -> nn.Module:
    keras.utils.clear_session()
    return keras.Sequential([keras.Input((6, 5)), layers.LSTM(16), layers.Dense(3)])


KERAS = {
    "Keras, convolutional": Architecture(convolutional, lambda: numbers(2, 12, 12, 3), refused=_WHY),
    "Keras, transformer": Architecture(transformer, lambda: tokens(2, 6), refused=_WHY),
    "Keras, recurrent": Architecture(recurrent, lambda: numbers(2, 6, 5), refused=_WHY),
}

__all__ = ["KERAS"]
