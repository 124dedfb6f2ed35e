"""Count floating-point operations by FlopCounterMode, and profile one call."""

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertModel

model = HubertModel.from_pretrained("facebook/hubert-base-ls960").eval()
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
counter = FlopCounterMode(display=False)
with torch.no_grad(), counter:
    counted = model(waveform).last_hidden_state
with torch.no_grad():
    hidden = model(waveform).last_hidden_state
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        profiled = model(waveform).last_hidden_state
result = {
    "operations": counter.get_total_flops(),
    "counted": counted,
    "hidden": hidden,
    "profiled": profiled,
    "events": len(profile.key_averages()) > 0,
}
