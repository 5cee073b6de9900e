"""Few bits a weight: our methods, and rounding to nearest. Those of others are in `bits_torch` and `bits_onnx`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import bits_onnx
import bits_torch
import torch
from bits_onnx import answers_of
from methods import OURS, Make, Method, Stage, layers_of, ours, theirs, weights_of
from nets import TUNING_LR, Case

import nbcompress as nc

BITS = (8, 4, 3, 2)


def _tuning(case: Case) -> dict[str, object]:
    return {"data": case.train, "finetune": case.tuning, "lr": TUNING_LR, "seed": case.seed}


def quantized(case: Case, bits: int, **options: object) -> Iterator[Stage]:
    """Ours: rounded, and trained with rounded weights."""
    options["layers"] = layers_of(case.model)
    yield ours("plain", nc.quantize(case.model, bits, **options))
    yield ours("tuned", nc.quantize(case.model, bits, **options, **_tuning(case)))


def rounded(case: Case, bits: int, **options: object) -> Iterator[Stage]:
    """Ours, not trained."""
    yield ours("plain", nc.quantize(case.model, bits, **options, layers=layers_of(case.model)))


def clustered(case: Case, bits: int) -> Iterator[Stage]:
    """Ours: as many shared values as there are codes."""
    yield ours("plain", nc.cluster(case.model, 2**bits, layers=layers_of(case.model)))
    yield ours("tuned", nc.cluster(case.model, 2**bits, layers=layers_of(case.model), **_tuning(case)))


def mixed(case: Case, bits: int) -> Iterator[Stage]:
    """Ours: bits by layer, in a file that is no longer than with equal bits."""
    layers = layers_of(case.model)
    budget = nc.size_bytes(nc.quantize(case.model, bits, layers=layers))
    found = nc.quantize(case.model, "auto", budget=budget, layers=layers, data=case.train, seed=case.seed)
    yield ours("plain", found)


def in_integers(case: Case, bits: int, activations: str) -> Iterator[Stage]:
    """Ours, exported: inputs of layers are rounded too, and ONNX Runtime multiplies integers."""
    layers = layers_of(case.model)
    model = nc.quantize(case.model, bits, activations=activations, layers=layers, data=case.train)
    with TemporaryDirectory() as folder:
        path = nc.export(model, Path(folder) / "model.onnx", example=case.example, data=case.train)
        yield Stage("plain", answers_of(path), lambda: path.stat().st_size)


def to_nearest(case: Case, bits: int) -> Iterator[Stage]:
    """The textbook method: symmetric codes for each channel, with the largest weight on the last code.

    For two bits and more. The file holds 32 bits a weight, since nothing packs them.
    """
    model = copy.deepcopy(case.model)
    most = 2 ** (bits - 1) - 1
    for weight in weights_of(model).values():
        flat = weight.data.flatten(1)
        scale = flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / most
        weight.data = ((flat / scale).round().clamp(-most, most) * scale).reshape(weight.shape)
    yield theirs("plain", model)


def _ours(name: str, make: Make, budgets: tuple[int, ...] = BITS, **options: object) -> Method:
    return Method("bits", OURS, name, partial(make, **options) if options else make, budgets)


METHODS = (
    _ours("symmetric, channel", quantized),
    _ours("affine, channel", quantized, scheme="affine"),
    _ours("symmetric, group", quantized, granularity="group:32"),
    _ours("affine, group", quantized, scheme="affine", granularity="group:32"),
    _ours("symmetric, tensor", rounded, granularity="tensor"),
    _ours("symmetric, channel, absmax", rounded, scale="absmax"),
    _ours("affine, channel, absmax", rounded, scheme="affine", scale="absmax"),
    _ours("shared values", clustered),
    _ours("mixed bits", mixed, (4, 3, 2)),
    _ours("static inputs", in_integers, (8,), activations="static"),
    _ours("dynamic inputs", in_integers, (8,), activations="dynamic"),
    Method("bits", "round to nearest", "symmetric, channel, absmax", to_nearest, BITS),
    *bits_torch.METHODS,
    *bits_onnx.METHODS,
)
