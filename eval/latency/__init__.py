"""Where the seconds of a clip go, at many and at few steps, and ways to take fewer."""
