"""Check kernels against their definitions on the machine at hand: by `hubert-fast check`, and once before `auto` uses them.

`cases` builds every op at a shape, `selections` chooses the shapes, `values` and `models` compare results, `process` does
so in a separate process, and `verdicts` stores the outcome.
"""
