"""A page to look at captions with: one HTML file that asks for nothing from anywhere."""
