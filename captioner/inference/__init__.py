"""A trained model at work: captions, scores, explanations."""
