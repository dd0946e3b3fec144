"""Next-item recommendation on MovieLens-100k: full causal attention against attention to segments, in one training loop."""
