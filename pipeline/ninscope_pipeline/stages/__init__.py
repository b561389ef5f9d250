"""One file a stage: what a checkpoint, or a model, is turned into (stage.py says what a stage is, registry.py lists them)."""
