"""ONNX: reads a file or a model in memory into the neutral graph, writes a plan back. The only room that names its operators."""

from refold.dialects.onnx._alone import called_nodes, nodes_alone
from refold.dialects.onnx._annotate import annotate, annotation, weights
from refold.dialects.onnx._load import data_names
from refold.dialects.onnx._model import OnnxDeployed, OnnxModel, compare
from refold.dialects.onnx._stated import as_file, feeds_for
from refold.dialects.onnx._stream import as_inputs, channels, open_file, runner
from refold.dialects.onnx._walk import stated_inputs, walk

__all__ = [
    "OnnxDeployed",
    "OnnxModel",
    "annotate",
    "annotation",
    "as_file",
    "as_inputs",
    "called_nodes",
    "channels",
    "compare",
    "data_names",
    "feeds_for",
    "nodes_alone",
    "open_file",
    "runner",
    "stated_inputs",
    "walk",
    "weights",
]
