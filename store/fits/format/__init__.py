"""The store's files: generations, segments, tags, and the state they make."""
