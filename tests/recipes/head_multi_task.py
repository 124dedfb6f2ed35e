"""Share one encoder between a CTC head and a classifier."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import HubertForCTC


class MultiTask(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.asr = HubertForCTC.from_pretrained(name, apply_spec_augment=False)
        self.speaker = nn.Linear(self.asr.config.hidden_size, 3)

    def forward(self, waveforms, labels, speakers):
        outputs = self.asr(waveforms, labels=labels, output_hidden_states=True)
        logits = self.speaker(outputs.hidden_states[2].mean(dim=1))
        return outputs.loss + F.cross_entropy(logits, speakers), logits


model = MultiTask("facebook/hubert-large-ls960-ft")
with torch.no_grad():
    for parameter in model.speaker.parameters():
        parameter.copy_(torch.linspace(-0.2, 0.2, parameter.numel()).view_as(parameter))
model.train()
torch.manual_seed(0)
loss, logits = model(torch.randn(2, 8000), torch.tensor([[5, 6], [7, 8]]), torch.tensor([0, 2]))
loss.backward()
result = {"loss": loss, "logits": logits, "gradient": model.asr.hubert.encoder.layers[0].attention.v_proj.weight.grad}
