"""Put a linear head on a pretrained encoder in a plain nn.Module, and train the head only."""

import torch
from torch import nn
from transformers import HubertModel


class Classifier(nn.Module):
    def __init__(self, name, labels):
        super().__init__()
        self.encoder = HubertModel.from_pretrained(name)
        self.encoder.requires_grad_(False)
        self.head = nn.Linear(self.encoder.config.hidden_size, labels)

    def forward(self, waveforms):
        return self.head(self.encoder(waveforms).last_hidden_state.mean(dim=1))


torch.manual_seed(0)
model = Classifier("facebook/hubert-base-ls960", 4)
nn.init.constant_(model.head.weight, 0.1)
nn.init.zeros_(model.head.bias)
model.encoder.eval()
waveforms = torch.randn(3, 7000, generator=torch.Generator().manual_seed(2))
optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-2)
losses = []
for _ in range(3):
    loss = nn.functional.cross_entropy(model(waveforms), torch.tensor([0, 1, 3]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
torch.save(model.state_dict(), "classifier.pt")
model.load_state_dict(torch.load("classifier.pt"), strict=True)
result = {"losses": losses, "weight": model.head.weight}
