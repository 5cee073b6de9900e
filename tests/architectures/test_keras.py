"""A cut or copied Keras model still trains, saves and loads with Keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from architectures.keras_models import KERAS, keras  # which chooses the backend before it is loaded
from keras import layers
from torch import nn

import nbcompress as nc
from nbcompress.compressors.layers import copied
from nbcompress.errors import CompressionError, LayerNotFound

pytestmark = pytest.mark.filterwarnings("ignore")


def built(name: str) -> tuple[keras.Model, torch.Tensor]:
    torch.manual_seed(0)
    architecture = KERAS[name]
    return architecture.build(), architecture.example()  # type: ignore[return-value]


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


def dense(units: int, *, linear: bool = False) -> layers.Layer:
    return layers.Dense(units, activation=None if linear else "relu")


@keras.saving.register_keras_serializable("nbcompress")
class Sized(layers.Layer):
    """A class of the user's own whose configuration contains the widths of its layers."""

    def __init__(self, units: int = 16, out: int = 12, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.units, self.out = units, out
        self.first, self.second = dense(units), dense(out)

    def build(self, shape: tuple[int, ...]) -> None:
        self.first.build(shape)
        self.second.build((*shape[:-1], self.units))
        self.built = True

    def call(self, x: object) -> object:
        return self.second(self.first(x))

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "units": self.units, "out": self.out}


@keras.saving.register_keras_serializable("nbcompress")
class Silent(keras.Model):
    """A class whose configuration does not contain them, with a model inside."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.first, self.last = dense(16), dense(3, linear=True)
        inside = keras.Input((16,))
        self.inner = keras.Model(inside, dense(12)(inside))

    def call(self, x: object) -> object:
        return self.last(self.inner(self.first(x)))


def sequences() -> keras.Model:
    inner = keras.Sequential([dense(16), keras.Sequential([dense(14)]), dense(12)])
    return keras.Sequential([keras.Input((7,)), dense(20), inner, dense(3, linear=True)])


def graphs() -> keras.Model:
    first, second = keras.Input((20,)), keras.Input((10,))
    both = dense(16)(layers.Concatenate()([first, second]))
    inner = keras.Model({"first": first, "second": second}, [dense(12)(both), dense(8)(both)])
    start = keras.Input((7,))
    ends = inner({"first": dense(20)(start), "second": dense(10)(start)})
    return keras.Model(start, dense(3, linear=True)(layers.Concatenate()(ends)))


def shared() -> keras.Model:
    layer, inner = dense(16), keras.Sequential([dense(12), dense(8)])
    start = keras.Input((7,))
    once, twice = layer(dense(10)(start)), layer(dense(10)(start))
    return keras.Model(start, dense(3, linear=True)(layers.Add()([inner(once), inner(twice)])))


def wrapped() -> keras.Model:
    inner = keras.Sequential([dense(12)])
    return keras.Sequential(
        [
            keras.Input((5, 7)),
            layers.TimeDistributed(dense(16)),
            layers.TimeDistributed(inner),
            layers.Flatten(),
            dense(3),
        ]
    )


def classes() -> keras.Model:
    return keras.Sequential([keras.Input((7,)), dense(20), Sized(), dense(3, linear=True)])


@pytest.mark.parametrize("build", [sequences, graphs, shared, wrapped, classes])
def test_models_in_models_are_cut_and_saved(build: Callable[[], keras.Model], tmp_path: Path) -> None:
    def fresh() -> keras.Model:
        keras.utils.clear_session()
        return build()

    torch.manual_seed(0)
    model, x = fresh(), torch.randn(2, *fresh().input_shape[1:])
    small = nc.prune(model, 0.5, granularity="channel", example=x)
    assert set(nc.record_of(small).left_out.values()) == {"it is an output of the model, and outputs keep their shape"}
    loaded = nc.load(nc.save(small, tmp_path / "small.nbz"), fresh())
    for saved in (small, loaded, nc.prune(small, 0.5, granularity="channel", example=x)):
        saved.save(tmp_path / "small.keras")
        assert torch.equal(keras.models.load_model(tmp_path / "small.keras")(x), saved(x))
    assert torch.equal(loaded(x), small(x))


def test_a_class_that_does_not_tell_its_sizes_is_cut_and_not_saved_as_a_file_that_cannot_be_opened(
    tmp_path: Path,
) -> None:
    def fresh() -> keras.Model:
        keras.utils.clear_session()
        model = Silent()
        model(x)
        return model

    x = torch.randn(2, 7)
    model = fresh()
    model.save(tmp_path / "whole.keras")
    small = nc.prune(model, 0.5, granularity="channel", example=x)
    assert [layer.units for layer in (small.first, small.inner.layers[1], small.last)] == [8, 6, 3]
    with pytest.raises(CompressionError, match=r"get_config of Silent does not tell .* nc.save"):
        small.save(tmp_path / "small.keras")
    assert torch.equal(nc.load(nc.save(small, tmp_path / "small.nbz"), fresh())(x), small(x))


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


@pytest.mark.parametrize("name", ["Keras, residual", "Keras, transformer"])
def test_layers_of_keras_are_not_removed(name: str) -> None:
    model, x = built(name)
    with pytest.raises(CompressionError, match="removes no layers of Keras, which calls, counts and saves the layers"):
        nc.prune(model, 0.5, granularity="layer", example=x)
