"""Keras 3 models on the torch backend. Layers in lists are not modules to torch."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
from architectures.entry import Architecture, numbers, tokens
from keras import layers
from torch import nn


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


def residual() -> nn.Module:
    """Residual addition, concatenation, and separable, grouped and transposed convolutions."""
    keras.utils.clear_session()
    image = keras.Input((8, 8, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(12, 3, padding="same")(image)))
    x = layers.Add()([x, layers.SeparableConv2D(12, 3, padding="same", activation="relu")(x)])
    x = layers.MaxPooling2D()(layers.Concatenate()([x, layers.Conv2D(8, 1)(x)]))
    x = layers.Conv2DTranspose(8, 2, strides=2, activation="relu")(layers.Conv2D(16, 3, groups=2)(x))
    return keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def transformer() -> nn.Module:
    keras.utils.clear_session()
    ids = keras.Input((6,), dtype="int32")
    x = layers.Embedding(60, 16)(ids)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 4)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, activation="gelu")(x)))
    return keras.Model(ids, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def recurrent() -> nn.Module:
    keras.utils.clear_session()
    return keras.Sequential(
        [
            keras.Input((6, 5)),
            layers.LSTM(16, return_sequences=True),
            layers.Bidirectional(layers.GRU(8)),
            layers.Dense(3),
        ]
    )


class Blocks(keras.Model):
    """A class of the user's own, with layers in a list and in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [layers.Dense(16, activation="relu") for _ in range(2)]
        self.heads = {"first": layers.Dense(2), "second": layers.Dense(3)}

    def call(self, x: object) -> dict[str, object]:
        for block in self.blocks:
            x = block(x)
        return {name: head(x) for name, head in self.heads.items()}


def blocks() -> nn.Module:
    keras.utils.clear_session()
    model = Blocks()
    model(keras.ops.zeros((1, 7)))
    return model


KERAS = {
    "Keras, convolutional": Architecture(convolutional, lambda: numbers(2, 12, 12, 3)),
    "Keras, residual": Architecture(residual, lambda: numbers(2, 8, 8, 3)),
    "Keras, transformer": Architecture(transformer, lambda: tokens(2, 6)),
    "Keras, recurrent": Architecture(recurrent, lambda: numbers(2, 6, 5)),
    "Keras, a class with lists": Architecture(blocks, lambda: numbers(2, 7)),
}

__all__ = ["KERAS"]
