"""Data sets: annotations and images, read, checked and collated into batches."""
