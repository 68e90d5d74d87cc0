"""Exports in the programs that they are for: one row for each point that was really run."""
