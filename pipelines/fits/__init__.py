"""The fit store as the pipeline uses it: a Ray actor, its clients, opening, and records of fits."""
