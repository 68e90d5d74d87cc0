"""Bad input: seeded mutations of valid files, each given to what a user's command would call."""
