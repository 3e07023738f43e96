"""Photographs to caption, and a captioner in one file."""
