"""Studies that train or decode many times. Run them from the repository's root with python -m."""
