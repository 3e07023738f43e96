"""How good captions are: words in, numbers out. Knows neither models nor tensors."""
