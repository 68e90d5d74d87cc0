"""The names of all surfaces, apart from what reads them, which takes seconds to import."""

NAMES = (
    "recipes", "overrides", "recipes of chains", "recipes of teachers", "manifests", "shards", "contracts",
    "weights of students", "adapters", "checkpoints", "captions", "prompts", "given images", "videos", "evaluations",
    "benchmarks", "reports", "runs", "teachers' configs", "teachers' weights", "exports", "tables",
)  # fmt: skip
