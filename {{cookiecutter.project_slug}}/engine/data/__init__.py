"""From samples to batches: data set splits (splits.py), the order of samples and their loaders (loaders.py)."""
