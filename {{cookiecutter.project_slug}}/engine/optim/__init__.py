"""What updates the weights: optimizers by name (optimizers.py, muon.py), and gradients (gradients.py)."""
