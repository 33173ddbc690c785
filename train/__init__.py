"""What runs where the model is: data, training, checkpoints, merge, evaluation, report."""
