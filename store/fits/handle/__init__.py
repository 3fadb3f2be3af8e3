"""An open store: records in memory, reading, writing, compaction, collecting garbage."""
