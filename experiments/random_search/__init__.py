"""Random search of settings (Bergstra and Bengio 2012)."""
