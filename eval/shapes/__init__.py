"""Tables of the embedded world: teachers and students judged by its own judge."""
