"""What the command line does: a module for each command, and one for their reports."""
