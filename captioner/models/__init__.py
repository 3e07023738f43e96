"""The encoder, the decoder and the two combined."""
