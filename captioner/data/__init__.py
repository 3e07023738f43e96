"""Annotations and images → batches."""
