"""The modules that every batch job shares: they find the audio and record which of it is done.

    inputs.py (the arguments of a command)
        -> folders.py, patterns.py, remote.py, manifests.py (where audio is found)
        -> utterances.py (the items of work)

`inputs.Inputs` yields an `Utterance` for each piece of audio that files, folders, patterns, URLs and lists name, in a stable
order. `manifests` reads lists: JSON (json_rows.py, json_tables.py), tables (tables.py, rows.py) or the layout of a known corpus
(layouts.py). `audio_filter` decides which files of a folder are audio, `paths` what a relative path in a list refers to, and
`parts` which part of a recording a row selects. `journal.Journal` records what a job has done, so that a killed job can resume.
`queues` holds a queue that is bounded by the total weight of its items.

Jobs such as `hubert_fast.transcribe` build on these modules. Nothing here imports a job.
"""
