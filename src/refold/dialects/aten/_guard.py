"""Holds a folded network to the sizes that tracing had to fix, so that another size is an error and not a wrong result."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from refold.dialects.aten._trace import FixedSize


class SizeGuard(nn.Module):
    """Stands first in the graph and reads the inputs that have a fixed size, one for each of `sizes`."""

    _is_impure = True  # it makes nothing, and must stay all the same when torch drops what nothing reads

    def __init__(self, sizes: Sequence[FixedSize]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)

    def forward(self, *inputs: torch.Tensor) -> None:
        """Raise `ValueError` where an input has another size than the network was traced for."""
        for x, fixed in zip(inputs, self.sizes, strict=True):
            actual = x.shape[fixed.axis]
            if actual != fixed.size:
                raise ValueError(
                    f"axis {fixed.axis} of `{fixed.name}` has size {actual}, but the network was traced for {fixed.size} alone; "
                    "give that size, or fold again with example inputs of the new one"
                )

    def extra_repr(self) -> str:
        """The sizes, as a module's print shows them."""
        return ", ".join(map(str, self.sizes))
