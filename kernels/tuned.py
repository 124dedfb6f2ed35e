"""Block sizes measured by `bench/tune.py --write`, by (op, capability, shape...). Empty until that has run on a GPU."""

TUNED: dict[tuple, dict[str, int]] = {}
