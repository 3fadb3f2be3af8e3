"""What builds, checks and measures the project; nothing in the rooms imports it."""
