"""Save each model, and load it by AutoConfig, AutoModel and their like."""

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    HubertForCTC,
    HubertForSequenceClassification,
    HubertModel,
)

torch.manual_seed(0)
waveform = torch.randn(1, 8000)
result = {}
for cls, auto, name in (
    (HubertModel, AutoModel, "facebook/hubert-base-ls960"),
    (HubertForCTC, AutoModelForCTC, "facebook/hubert-large-ls960-ft"),
    (HubertForSequenceClassification, AutoModelForAudioClassification, "superb/hubert-base-superb-ks"),
):
    model = cls.from_pretrained(name)
    model.save_pretrained("saved")
    config = AutoConfig.from_pretrained("saved")
    with torch.no_grad():
        result[name] = [config.architectures, config.model_type, auto.from_pretrained("saved").eval()(waveform)[0]]
