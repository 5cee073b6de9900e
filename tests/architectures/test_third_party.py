"""Classes of other libraries, in their smallest variants: cut, saved, loaded and exported with equal outputs.

`tests/benchmarks/third_party.py` runs the long list.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import nbcompress as nc
from nbcompress.compressors.coupling import tensors_of

# What libraries say of their own classes, not of ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def library(name: str) -> Any:
    """The module `name`; the test is skipped with a sentence where it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except (ImportError, RuntimeError) as err:
        pytest.skip(f"{name} cannot be imported here: {err}")


def of_timm(module: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    """A class of timm of small width, for 32 pixels and 5 classes."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        made: nn.Module = getattr(library(f"timm.models.{module}"), name)(num_classes=5, **options)
        return made.eval()

    return build


def of_x_transformers(**options: Any) -> Callable[[], nn.Module]:
    """A decoder of x-transformers."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        x = library("x_transformers")
        layers = x.Decoder(dim=32, depth=2, heads=4, attn_dim_head=8, **options)
        made: nn.Module = x.TransformerWrapper(num_tokens=60, max_seq_len=16, attn_layers=layers)
        return made.eval()

    return build


def of_segmentation() -> nn.Module:
    """A U-Net of segmentation-models-pytorch."""
    torch.manual_seed(0)
    made = library("segmentation_models_pytorch").Unet("resnet18", encoder_weights=None, classes=3)
    return cast("nn.Module", made.eval())


def of_monai() -> nn.Module:
    """A residual U-Net of MONAI."""
    torch.manual_seed(0)
    made = library("monai.networks.nets").UNet(
        spatial_dims=2, in_channels=3, out_channels=3, channels=(8, 16, 32), strides=(2, 2), num_res_units=2
    )
    return cast("nn.Module", made.eval())


def image() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def tokens() -> Tensor:
    return torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(0))


_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
# The builder, the input, and the least share of the parameters that must go.
CLASSES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], float]] = {
    "timm Xcit": (of_timm("xcit", "Xcit", **_VIT), image, 0.4),
    "timm ConVit": (of_timm("convit", "ConVit", **_VIT, local_up_to_layer=1), image, 0.3),
    "timm Eva": (of_timm("eva", "Eva", **_VIT), image, 0.3),
    "timm Cait": (of_timm("cait", "Cait", **_VIT), image, 0.3),
    "timm MlpMixer": (
        of_timm("mlp_mixer", "MlpMixer", img_size=32, patch_size=8, embed_dim=32, num_blocks=2),
        image,
        0.2,
    ),
    "timm PyramidVisionTransformerV2": (
        of_timm(
            "pvt_v2",
            "PyramidVisionTransformerV2",
            depths=(1, 1),
            embed_dims=(16, 32),
            num_heads=(2, 4),
            sr_ratios=(2, 1),
            mlp_ratios=(2.0, 2.0),
        ),
        image,
        0.2,
    ),
    "timm ResNet": (
        lambda: of_timm("resnet", "ResNet", block=library("timm.models.resnet").BasicBlock, layers=(1, 1, 1, 1))(),
        image,
        0.5,
    ),
    "timm ConvNeXt": (of_timm("convnext", "ConvNeXt", depths=(1, 1, 1, 1), dims=(8, 16, 32, 64)), image, 0.3),
    "segmentation-models U-Net": (of_segmentation, image, 0.5),
    "MONAI UNet": (of_monai, image, 0.3),
    "x-transformers Decoder": (of_x_transformers(), tokens, 0.3),
    "x-transformers multi-query": (of_x_transformers(attn_kv_heads=1), tokens, 0.2),
    "x-transformers rotary, gated": (of_x_transformers(rotary_pos_emb=True, ff_glu=True), tokens, 0.3),
}


def n_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    return tensors_of(model.eval()(example))


@pytest.mark.parametrize("name", CLASSES)
def test_cut_saved_loaded_and_exported(name: str, tmp_path: Path) -> None:
    build, make_example, share = CLASSES[name]
    model, example = build(), make_example()
    small = nc.prune(model, 0.5, granularity="channel", example=example)
    assert 1 - n_parameters(small) / n_parameters(model) >= share
    assert [a.shape for a in outputs(small, example)] == [b.shape for b in outputs(model, example)]
    file = nc.save(small, tmp_path / "small.nbz")
    loaded = nc.load(file, build())
    for a, b in zip(outputs(loaded, example), outputs(small, example), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.save(outputs(small, example), tmp_path / "outputs.pt")
    checked = [sys.executable, "-W", "ignore", __file__, name, str(file), str(tmp_path / "outputs.pt")]
    subprocess.run(checked, check=True, timeout=250)
    # The export compares the outputs of the file with those of the model.
    nc.export(small, tmp_path / "small.onnx", example=example)
    first = outputs(small, example)[0]
    runtime = importlib.import_module("onnxruntime").InferenceSession(tmp_path / "small.onnx")
    written = runtime.run(None, {runtime.get_inputs()[0].name: example.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(written), first, rtol=1e-3, atol=1e-4)


def check_in_a_clean_process(name: str, file: str, expected: str) -> None:
    """Load the file where the default dtype is another one, and compare the outputs."""
    build, make_example, _ = CLASSES[name]
    example = make_example()
    torch.set_default_dtype(torch.float64)
    loaded = nc.load(file, build().float()).eval()
    for a, b in zip(outputs(loaded, example), torch.load(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    check_in_a_clean_process(*sys.argv[1:])
