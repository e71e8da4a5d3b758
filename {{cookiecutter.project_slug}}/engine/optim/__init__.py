"""What updates the weights: optimizers by name (optimizers.py, muon.py), gradients; and averages them (ema.py)."""
