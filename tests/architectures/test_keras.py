"""What a cut or copied model of Keras still is to Keras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from architectures.keras_models import KERAS, keras  # which chooses the backend before it is loaded
from keras import layers
from torch import nn

import nbcompress as nc
from nbcompress.compress.layers import copied
from nbcompress.errors import LayerNotFound

pytestmark = pytest.mark.filterwarnings("ignore")


def built(name: str) -> tuple[keras.Model, torch.Tensor]:
    torch.manual_seed(0)
    one = KERAS[name]
    return one.build(), one.example()  # type: ignore[return-value]


def fitted(name: str) -> tuple[keras.Model, torch.Tensor, np.ndarray]:
    model, x = built(name)
    y = np.zeros((len(x), 3))
    model.compile("adam", "mse")
    model.fit(x.numpy(), y, verbose=0)
    return model, x, y


@pytest.mark.parametrize("name", ["Keras, residual", "Keras, transformer", "Keras, recurrent"])
def test_a_cut_model_is_one_of_keras(name: str, tmp_path: Path) -> None:
    model, x = built(name)
    small = nc.prune(model, 0.5, granularity="channel", example=x)
    for variable in small.variables:
        assert variable.shape == tuple(variable.value.shape)
    shapes = {layer.name: tuple(layer.output.shape) for layer in small.layers}
    cut = [key for key, shape in shapes.items() if shape != tuple(model.get_layer(key).output.shape)]
    assert cut
    small.save(tmp_path / "small.keras")
    again = keras.models.load_model(tmp_path / "small.keras")
    assert torch.equal(again(x), small(x))
    assert {layer.name: tuple(layer.output.shape) for layer in again.layers} == shapes


def test_numbers_of_layers_follow_their_shapes() -> None:
    model, x = built("Keras, residual")
    small = nc.prune(model, 0.5, granularity="channel", example=x)
    assert [small.get_layer(name).filters for name in ("conv2d", "conv2d_2", "conv2d_transpose")] == [6, 8, 4]
    assert small.get_layer("conv2d_2").input_spec.axes == {-1: 10}
    assert model.get_layer("conv2d_2").input_spec.axes == {-1: 20}
    model, x = built("Keras, transformer")
    small = nc.prune(model, 0.5, granularity="channel", example=x)
    attention = small.get_layer("multi_head_attention")
    assert (attention.num_heads, attention.key_dim, attention.value_dim) == (2, 4, 2)
    assert small.get_layer("dense_1").units == 16


def test_training_a_copy_trains_the_copy() -> None:
    model, x, y = fitted("Keras, recurrent")
    before = model.get_weights()
    small = copied(model)
    small.fit(x.numpy(), y + 1, epochs=2, verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert not all(map(np.array_equal, before, small.get_weights()))
    cut = nc.prune(model, 0.5, granularity="channel", example=x)
    losses = cut.fit(x.numpy(), y + 1, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_layers_by_the_names_of_their_variables() -> None:
    model, x = built("Keras, convolutional")
    small = nc.prune(model, 0.5, granularity="channel", layers="*conv2d_1/kernel", example=x)
    assert [small.get_layer(name).filters for name in ("conv2d", "conv2d_1")] == [8, 8]
    with pytest.raises(LayerNotFound, match=r"sequential/conv2d/kernel"):
        nc.prune(model, 0.5, layers="conv3d")


PREPROCESSING = {
    "rescaling": lambda: layers.Rescaling(1 / 255),
    "normalization": lambda: layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0]),
    "resizing": lambda: layers.Resizing(10, 10),
    "crop": lambda: layers.CenterCrop(10, 10),
    "flip": lambda: layers.RandomFlip(seed=1),
    "rotation": lambda: layers.RandomRotation(0.1, seed=1),
    "contrast": lambda: layers.RandomContrast(0.1, seed=1),
    "noise": lambda: layers.GaussianNoise(0.1, seed=1),
}


@pytest.mark.parametrize("name", PREPROCESSING)
def test_models_with_layers_that_prepare_their_inputs(name: str, tmp_path: Path) -> None:
    def build() -> keras.Model:
        keras.utils.clear_session()
        ends = [layers.Conv2D(8, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(3)]
        return keras.Sequential([keras.Input((12, 12, 3)), PREPROCESSING[name](), *ends])

    x = torch.randn(2, 12, 12, 3)
    model = build()
    small = nc.quantize(nc.prune(model, 0.5, granularity="channel", example=x), bits=8)
    assert small.layers[1].filters == 4
    assert torch.equal(
        nc.load(nc.save(small, tmp_path / "a.nbz"), build())(x, training=False), small(x, training=False)
    )
    small.save(tmp_path / "small.keras")
    assert torch.equal(keras.models.load_model(tmp_path / "small.keras")(x, training=False), small(x, training=False))


def test_layers_of_keras_in_a_model_of_torch(tmp_path: Path) -> None:
    def build() -> nn.Module:
        keras.utils.clear_session()
        dense = keras.layers.Dense(24, activation="relu")
        dense.build((None, 16))
        return nn.Sequential(nn.Linear(5, 16), dense, nn.Linear(24, 2))

    x = torch.randn(3, 5)
    model = build()
    small = nc.prune(model, 0.5, granularity="channel", example=x)
    assert small[1].units == 12
    assert torch.equal(nc.load(nc.save(small, tmp_path / "small.nbz"), build())(x), small(x))
