"""Side by side with what one would otherwise call: `run.py` in the peers' environment, `ours.py` in ours, on the same seeded data."""
