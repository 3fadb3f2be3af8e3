"""Examples that run as they are; each is a test too."""
