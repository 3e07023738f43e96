"""Files of captions and of their scores."""
