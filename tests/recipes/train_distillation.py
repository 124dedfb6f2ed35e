"""Distil a teacher into a student of its first layers, by the hidden states."""

import copy

import torch
import torch.nn.functional as F
from transformers import HubertModel

teacher = HubertModel.from_pretrained("facebook/hubert-base-ls960", mask_time_prob=0.0).eval().requires_grad_(False)
config = copy.deepcopy(teacher.config)
config.num_hidden_layers = 2
student = HubertModel(config)
missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
student.train()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
torch.manual_seed(0)
waveforms = torch.randn(2, 8000)
losses = []
for _ in range(3):
    with torch.no_grad():
        target = teacher(waveforms, output_hidden_states=True).hidden_states[3]
    loss = F.mse_loss(student(waveforms).last_hidden_state, target)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
result = {"missing": missing, "unexpected": len(unexpected), "losses": losses}
