"""Students in the formats in which other tools take them, each loaded back by those tools before it counts."""
