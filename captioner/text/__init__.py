"""Text: captions as words, words as ids, and pretrained word vectors."""
