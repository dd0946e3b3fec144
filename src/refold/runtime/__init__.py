"""Native runtimes in a process of their own: what they do wrong ends that process and not the caller's."""

from refold.runtime._background import Background
from refold.runtime._process import RuntimeDied, RuntimeRefused, prepare
from refold.runtime._quantize import quantize
from refold.runtime._scratch import cannot_write, scratch_file
from refold.runtime._session import OpenSession, try_in_openvino

__all__ = [
    "Background",
    "OpenSession",
    "RuntimeDied",
    "RuntimeRefused",
    "cannot_write",
    "prepare",
    "quantize",
    "scratch_file",
    "try_in_openvino",
]
