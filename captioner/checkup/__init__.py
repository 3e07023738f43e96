"""The check of a data set before training: faults, statistics, images that splits share."""
