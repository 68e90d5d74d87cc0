"""The folder of a diffusers pipeline: what it must hold, and its parts with and without weights."""
