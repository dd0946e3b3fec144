"""Integer arithmetic of sliding windows: sizes, paddings, receptive fields, segments. No arrays, no frameworks."""

from refold.geometry._numbers import whole
from refold.geometry._padding import ReceptiveField, get_padding, receptive_field, same_padding
from refold.geometry._segments import SegmentPlan, plan_segments
from refold.geometry._window import Window

__all__ = ["ReceptiveField", "SegmentPlan", "Window", "get_padding", "plan_segments", "receptive_field", "same_padding", "whole"]
