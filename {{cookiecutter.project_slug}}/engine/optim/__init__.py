"""What updates the weights: optimizers by name, Muon, gradients."""
