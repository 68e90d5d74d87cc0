"""One file per method: what a stage minimises."""
