"""Searches over a step function, and rules that they obey."""
