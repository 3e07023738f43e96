"""The three jobs: caption, train, evaluate."""
