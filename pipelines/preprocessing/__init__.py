"""From a raw data set to annotations, and to packed crops."""
