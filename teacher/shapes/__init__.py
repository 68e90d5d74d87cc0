"""The embedded world: captioned procedural clips, and the tiny Wan pipeline trained on them."""
