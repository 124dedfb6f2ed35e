"""Share a model between threads."""

from concurrent.futures import ThreadPoolExecutor

import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
waveforms = [torch.randn(1, length) for length in (5000, 8000, 6500, 5000)]


def infer(waveform):
    with torch.inference_mode():
        return model(waveform).logits.clone()


with ThreadPoolExecutor(3) as pool:
    result = list(pool.map(infer, waveforms))
