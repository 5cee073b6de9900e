"""Few bits by ONNX Runtime's own quantizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from methods import Method, Stage, weights_of
from nets import Case
from torch import Tensor

from nbcompress.artifact.export.onnx_graph import OnnxSession

BATCH = 64


def answers_of(path: Path) -> Callable[[Tensor], Tensor]:
    """Return a function from inputs to the outputs of an ONNX file, on one thread. It needs the file."""
    session = OnnxSession(str(path), 1)
    return lambda x: torch.from_numpy(session([x])[0])


@lru_cache(maxsize=1)
def _exported(case: Case) -> bytes:
    """The dense network as an ONNX file with a free batch size, prepared as ONNX Runtime asks for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder:
        plain, prepared = Path(folder) / "plain.onnx", Path(folder) / "prepared.onnx"
        batch = torch.export.Dim("batch", min=2, max=4096)
        program = torch.onnx.export(
            case.model, (case.example,), input_names=["x"], dynamic_shapes=({0: batch},), verbose=False
        )
        program.save(plain)
        quant_pre_process(str(plain), str(prepared))
        return prepared.read_bytes()


class Batches:
    """Calibration data in the form that ONNX Runtime reads."""

    def __init__(self, x: Tensor) -> None:
        self._left = iter(x.split(BATCH))

    def get_next(self) -> dict[str, Any] | None:
        found = next(self._left, None)
        return None if found is None else {"x": found.numpy()}


def _covers(path: Path, case: Case) -> float:
    """Share of the weights that are no longer floating point in the file."""
    import onnx

    wide = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    n_floating = sum(prod(tensor.dims) for tensor in onnx.load(path).graph.initializer if tensor.data_type in wide)
    n_weights = sum(weight.numel() for weight in weights_of(case.model).values())
    n_other = sum(tensor.numel() for tensor in case.model.state_dict().values()) - n_weights
    return 1 - max(0, n_floating - n_other) / n_weights


def by_file(case: Case, bits: int, quantize: Callable[[Case, int, Path, Path], None]) -> Iterator[Stage]:
    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(_exported(case))
        quantize(case, bits, before, after)
        yield Stage("plain", answers_of(after), lambda: after.stat().st_size, _covers(after, case))


def static(case: Case, bits: int, before: Path, after: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_static

    weights = QuantType.QInt8 if bits == 8 else QuantType.QInt4
    quantize_static(str(before), str(after), Batches(case.train[0]), per_channel=True, weight_type=weights)


def dynamic(case: Case, bits: int, before: Path, after: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(str(before), str(after), per_channel=True)


def blocks(case: Case, bits: int, before: Path, after: Path, *, affine: bool) -> None:
    """Weights of matrix products in blocks of 32."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=not affine, bits=bits)
    quantizer = MatMulNBitsQuantizer(onnx.load(before), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(after))


def _theirs(name: str, quantize: Callable[..., None], budgets: tuple[int, ...]) -> Method:
    return Method("bits", "onnxruntime", name, partial(by_file, quantize=quantize), budgets)


METHODS = (
    _theirs("static inputs", static, (8, 4)),
    _theirs("dynamic inputs", dynamic, (8,)),
    _theirs("symmetric, group", partial(blocks, affine=False), (8, 4, 2)),
    _theirs("affine, group", partial(blocks, affine=True), (8, 4, 2)),
)
