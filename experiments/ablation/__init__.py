"""Ablation: every context, cell and training objective, with the same number of epochs."""
