"""Captions as words, and words as ids."""
