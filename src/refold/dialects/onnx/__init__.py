"""ONNX: reads a file or a model in memory into the neutral graph, writes a plan back. The only room that names its operators."""

from refold.dialects.onnx._model import OnnxDeployed, OnnxModel, compare

__all__ = ["OnnxDeployed", "OnnxModel", "compare"]
