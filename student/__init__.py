"""The few-step model: what it was distilled for, and how it is sampled and exported."""
