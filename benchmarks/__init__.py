"""Speed of training and captioning, measured against a straightforward implementation."""
