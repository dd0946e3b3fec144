"""Where two networks that should be the same function part, and the likely cause."""

from refold.locate._causes import UNKNOWN
from refold.locate._departure import Departure
from refold.locate._locate import locate

__all__ = ["UNKNOWN", "Departure", "locate"]
