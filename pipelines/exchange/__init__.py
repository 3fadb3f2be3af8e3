"""Export fits and annotations to other programs' files, and import them from there."""
