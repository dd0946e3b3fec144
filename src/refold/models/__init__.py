"""Models, weights and inputs as a command line names them."""

from refold.models._inputs import make_inputs
from refold.models._named import NamedModel, pair_up, read_model
from refold.models._weights import load_weights

__all__ = ["NamedModel", "load_weights", "make_inputs", "pair_up", "read_model"]
