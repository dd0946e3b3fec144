"""The exceptions of the package: one root, and one class for each kind of misuse."""


class RefoldError(ValueError):
    """Root of every error that refold raises on purpose; the message says the fact, the numbers and the remedy."""


class GeometryError(RefoldError):
    """Sizes, paddings or strides that cannot be had together."""


class AlgebraError(RefoldError):
    """Arrays whose shapes do not make an affine convolution."""


class FoldError(RefoldError):
    """A model that cannot be read, traced or written."""


class VerificationError(RefoldError):
    """A result that is not the same function as its original, of which nothing has been written; or files that are not those certified."""
