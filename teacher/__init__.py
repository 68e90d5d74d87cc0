"""The frozen multi-step model: what it knows, and how it is asked."""
