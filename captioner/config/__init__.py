"""Every setting with its default, and how settings are read."""
