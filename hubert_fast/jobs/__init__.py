"""What every batch job shares: finding the audio, and recording which of it is finished.

    inputs.py (the arguments of a command) -> folders.py, patterns.py, remote.py, manifests.py -> utterances.py (one item of
    work)

`inputs.Inputs` yields an `Utterance` for each piece of audio that files, folders, patterns, URLs and lists name, in a stable
order. `manifests` reads lists: JSON (json_rows.py, json_tables.py), tables (tables.py, rows.py) or the layout of a known corpus
(layouts.py). `audio_filter` decides which files of a folder are audio, `paths` what a relative path in a list refers to, and
`parts` which part of a recording a row names. `journal.Journal` remembers what a killed job has finished. `queues` are bounded
by the total weight of their items.

Jobs such as `hubert_fast.transcribe` build on these modules. Nothing here imports a job.
"""
