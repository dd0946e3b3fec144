"""Handwritten digits from training to shipping: train a small RepVGG, fold it, prove it, measure what was gained."""
