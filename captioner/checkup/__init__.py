"""Check a data set before training: errors, statistics, and images that splits share."""
