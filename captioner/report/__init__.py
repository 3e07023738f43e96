"""HTML reports: one file with images, captions and scores that loads nothing from the network."""
