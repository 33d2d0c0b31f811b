"""Networks for other programs: weights, programs of StableHLO, and ONNX models."""

from se_flax.export.onnx import to_onnx
from se_flax.export.stablehlo import to_stablehlo
from se_flax.pretrained.save import to_safetensors

__all__ = ["to_onnx", "to_safetensors", "to_stablehlo"]
