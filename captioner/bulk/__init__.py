"""Captioning without limit: shards of a run, output in parts, and resuming."""
