"""Catch the error for a folder without a checkpoint."""

from transformers import HubertForCTC

try:
    HubertForCTC.from_pretrained("no-such-folder")
    result = "loaded"
except OSError:
    result = "absent"
