"""Inference with trained models: captions, their scores, and explanations of their words."""
