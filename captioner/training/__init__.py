"""Teaching a model, and keeping what it learnt."""
