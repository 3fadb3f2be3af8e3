"""Annotations of a data set: one Parquet file."""

from store.annotations.table import Annotations

__all__ = ["Annotations"]
