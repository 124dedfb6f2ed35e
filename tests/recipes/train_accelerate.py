"""Train with Accelerate, and save by its recipe: unwrap_model, get_state_dict, is_main_process, save_function."""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import HubertForCTC

accelerator = Accelerator(cpu=True)
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
model.freeze_feature_encoder()
torch.manual_seed(1)
examples = [{"input_values": torch.randn(6000), "labels": torch.randint(5, 32, (3,))} for _ in range(4)]
loader = DataLoader(examples, batch_size=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

losses = []
model.train()
for batch in loader:
    loss = model(**batch).loss
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

accelerator.wait_for_everyone()
unwrapped_model = accelerator.unwrap_model(model)
unwrapped_model.save_pretrained(
    "trained",
    is_main_process=accelerator.is_main_process,
    save_function=accelerator.save,
    state_dict=accelerator.get_state_dict(model),
)
reloaded = HubertForCTC.from_pretrained("trained").eval()
with torch.no_grad():
    logits = reloaded(examples[0]["input_values"][None]).logits
result = {"losses": losses, "logits": logits, "class": type(unwrapped_model).__name__}
