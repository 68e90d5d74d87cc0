"""Recipes and prompt lists: data only."""
