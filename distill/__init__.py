"""How a teacher becomes a student."""
