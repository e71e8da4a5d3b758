"""What a run shows: console.py, tensorboard.py, figures.py, learning-rate curves (lr_curve.py), layers (summary.py)."""
