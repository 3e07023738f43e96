"""Results files, the captions of images, and the files of their scores."""
