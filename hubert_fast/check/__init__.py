"""Check kernels against their definitions on this machine: in `hubert-fast check`, and once before `auto` uses them.

`cases` builds every op at a shape, `selections` chooses the shapes, `values` and `models` compare results, `process` runs
checks in a separate process, and `verdicts` stores the outcome.
"""
