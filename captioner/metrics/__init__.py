"""Metrics of captions: tokenized text in, numbers out; no module here imports torch or a model."""
