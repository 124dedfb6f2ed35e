"""What ``bench/tune.py --write`` measured, by (op, capability, shape...). Empty until it has run on a GPU."""

TUNED: dict[tuple, dict[str, int]] = {}
