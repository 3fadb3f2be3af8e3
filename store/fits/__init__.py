"""The fit store: records, how they merge, and how they are kept."""
