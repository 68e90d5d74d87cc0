"""One HTML page that shows a comparison: clips side by side, figures, curves and how they were measured."""
