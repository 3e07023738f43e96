"""Greedy search, sampling and beam search over a step function, and rules that constrain them."""
