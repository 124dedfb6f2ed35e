"""Compare a PEFT model with and without its adapter in one object."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks")
config = LoraConfig(r=2, target_modules=["k_proj", "out_proj"], modules_to_save=["classifier"], init_lora_weights=False)
torch.manual_seed(0)
model = get_peft_model(model, config).eval()
for name, parameter in model.named_parameters():
    if "lora_" in name:
        parameter.data = torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter)
waveform = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    tuned = model(waveform).logits
    with model.disable_adapter():
        original = model(waveform).logits
result = {"tuned": tuned, "original": original}
