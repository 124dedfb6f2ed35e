"""Fine-tune LoRA adapters with PEFT, save the adapter, load it again and merge it."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.0, bias="none")
model = get_peft_model(model, config)
for index, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
    parameter.data = torch.linspace(-0.05, 0.05, parameter.numel()).view_as(parameter) * (1 + index % 3)
torch.manual_seed(0)
waveforms, labels = torch.randn(1, 8000), torch.tensor([[6, 9, 12]])
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
model.train()
loss = model(waveforms, labels=labels).loss
loss.backward()
optimizer.step()

model.eval()
with torch.no_grad():
    tuned = model(waveforms).logits
model.save_pretrained("adapter")
base = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
reloaded = PeftModel.from_pretrained(base, "adapter").eval()
with torch.no_grad():
    loaded = reloaded(waveforms).logits
    merged = reloaded.merge_and_unload()(waveforms).logits
result = {"loss": loss, "tuned": tuned, "loaded": loaded, "merged": merged, "trainable": model.get_nb_trainable_parameters()}
