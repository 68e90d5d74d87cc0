"""Video files: opened, read as clips, and written."""
