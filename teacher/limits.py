"""How large the numbers of recipes and commands may be: larger ones are typing errors."""

MOST_FRAMES = 10_000
MOST_PIXELS = 16_384  # of a side
MOST_FPS = 1000.0
MOST_SAMPLING_STEPS = 1000  # from noise to clip: models know no more times
MOST_CLIPS = 65_536  # at a time
MOST_ITEMS = 10_000_000  # in all
MOST_GUIDANCE = 100.0
MOST_SHIFT = 1000.0
MOST_CONTROL = 100.0  # of a control branch: 1 is all of it
MOST_RANK = 8192

GIB = 2**30  # bytes
