"""Annotations of a data set: one Parquet file."""
