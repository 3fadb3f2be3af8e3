"""Bodies of the people in a photograph."""
