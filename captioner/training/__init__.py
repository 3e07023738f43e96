"""Training: objectives, the training loop, checkpoints and logs."""
