"""Running ONNX models in ONNX Runtime, where the package is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nbcompress.errors import ArtifactError, MissingPart

_PARTS = ("ml_dtypes", "onnx", "onnx_ir", "onnxruntime", "onnxscript")


def check_parts() -> None:
    """Raise a MissingPart error if a package for ONNX is not installed."""
    for name in _PARTS:
        try:
            import_module(name)
        except ImportError as err:
            raise MissingPart(f'ONNX needs the package {name}: pip install "nbcompress[onnx]"') from err


class Session:
    """An ONNX model, ready to run on the CPU.

    Args:
        model: Bytes of the model, or the path of its file.
        threads: That an operator computes on; 0 leaves it to ONNX Runtime.
        is_exact: Compute as the model says. Without it, ONNX Runtime takes the liberty of rounding activations to
            8 bits before a matrix product with decoded integers.

    Raises:
        ArtifactError: ONNX Runtime cannot read or run it.
        MissingPart: ONNX Runtime is not installed.
    """

    def __init__(self, model: bytes | str, threads: int = 0, *, is_exact: bool = False) -> None:
        check_parts()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Errors only: warnings tell what its own optimizer left alone.
        options.log_severity_level = 3
        if is_exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as err:
            raise ArtifactError(f"ONNX Runtime must be able to load the model, but {_first_line(err)}") from err
        self.inputs = tuple(one.name for one in self._session.get_inputs())

    def __call__(self, tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
        """The outputs for inputs in order."""
        arrays = [one.numpy(force=True) for one in tensors]
        try:
            found = self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))
        except Exception as err:
            raise ArtifactError(f"ONNX Runtime must be able to run the model, but {_first_line(err)}") from err
        return [np.asarray(one) for one in found]


def tensors_of(arrays: Sequence[NDArray[Any]]) -> list[Tensor]:
    """Outputs of a session as tensors."""
    return [torch.from_numpy(np.array(one)) for one in arrays]


def _first_line(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return f"it says: {lines[0][:300]}" if lines else f"it raised {type(err).__name__}"


__all__ = ["Session", "check_parts", "tensors_of"]
