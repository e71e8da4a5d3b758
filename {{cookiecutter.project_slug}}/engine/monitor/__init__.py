"""What a run shows: the console, TensorBoard, figures, learning-rate curves, summaries of networks."""
