"""PyTorch: reads what `torch.export` traces into the neutral graph, writes a plan back as a module. The only room that names ATen."""

from refold.dialects.aten._alone import called_layers, layers_alone
from refold.dialects.aten._annotate import annotation, stored_weights, weights
from refold.dialects.aten._model import AtenDeployed, AtenModel, compare
from refold.dialects.aten._save import save
from refold.dialects.aten._stream import as_inputs, runner
from refold.dialects.aten._trace import evaluating
from refold.dialects.aten._walk import walk

__all__ = [
    "AtenDeployed",
    "AtenModel",
    "annotation",
    "as_inputs",
    "called_layers",
    "compare",
    "evaluating",
    "layers_alone",
    "runner",
    "save",
    "stored_weights",
    "walk",
    "weights",
]
