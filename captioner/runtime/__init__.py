"""Captions with NumPy, Pillow and onnxruntime, from the graphs of a model folder; no torch."""
