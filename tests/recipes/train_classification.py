"""Fine-tune an encoder for audio classification, with label2id and id2label, in a loop."""

import torch
from transformers import HubertForSequenceClassification, Wav2Vec2FeatureExtractor

labels = ["angry", "happy", "neutral", "sad"]
label2id = {label: i for i, label in enumerate(labels)}
id2label = {i: label for i, label in enumerate(labels)}
feature_extractor = Wav2Vec2FeatureExtractor.from_pretrained("facebook/hubert-base-ls960")
model = HubertForSequenceClassification.from_pretrained(
    "facebook/hubert-base-ls960",
    num_labels=len(labels),
    label2id=label2id,
    id2label=id2label,
    mask_time_prob=0.0,
)
with torch.no_grad():
    for parameter in [*model.projector.parameters(), *model.classifier.parameters()]:
        parameter.copy_(torch.linspace(-0.2, 0.3, parameter.numel()).view_as(parameter))
model.train()
generator = torch.Generator().manual_seed(0)
arrays = [torch.randn(length, generator=generator).numpy() for length in (5000, 8000)]
inputs = feature_extractor(arrays, sampling_rate=16000, max_length=8000, padding="max_length", return_tensors="pt")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
losses = []
for _ in range(2):
    loss = model(**inputs, labels=torch.tensor([1, 3])).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
result = {"losses": losses, "labels": [model.config.id2label[i] for i in (0, 3)], "ids": model.config.label2id}
