"""Encoder, decoder, and the two together."""
