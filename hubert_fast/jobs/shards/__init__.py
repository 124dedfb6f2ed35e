"""Shards: files that hold many utterances, read as streams and written as one output each.

kinds.py        which files are shards, and the utterances in one
    tar_members.py, table_rows.py (with table_columns.py), lhotse_shar.py
finding.py      the shards in a folder, or that match a pattern
streams.py      the bytes of a shard, read on where a request failed
retries.py      how often a request is repeated, and which failures are final
"""
