"""Files and folders: whole or not there at all, locked, hashed, and text that other programs wrote."""
