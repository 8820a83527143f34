"""Data that is too large to be decoded once: shards, tar or parquet files, that are read while training."""
