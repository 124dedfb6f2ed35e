"""Shards: files that hold many utterances, which are read as streams, and jobs that write an output for each.

Reading:

    finding.py       the shards that a folder or pattern stands for, and their names
    kinds.py         which files are shards, and the utterances in one
        tar_members.py, table_rows.py (and table_columns.py), lhotse_shar.py
    streams.py       the bytes of a shard, read on where a request failed
    retries.py       how often a request is repeated, and which failures are final

Writing:

    command.py       a command with an output for each shard, from options to exit status
    shard_job.py     what is left to do, and what was done
    local_engine.py, on_ray.py    work on shards in this process, or in actors on a cluster
        engine.py    several shards at a time through one model
        shard_rows.py    the rows of one
    manifest.py      which shards are finished
    storage.py       the output folder, here or on any file system of fsspec
    progress.py      how far a job is
"""
