"""From samples to batches: data set splits, the order of samples, loaders."""
