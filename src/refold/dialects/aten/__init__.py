"""PyTorch: reads what `torch.export` traces into the neutral graph, writes a plan back as a module. The only room that names ATen."""

from refold.dialects.aten._model import AtenDeployed, AtenModel, compare

__all__ = ["AtenDeployed", "AtenModel", "compare"]
