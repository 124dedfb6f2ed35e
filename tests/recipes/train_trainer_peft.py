"""Train LoRA adapters with Trainer, and load the adapter that it saved."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import HubertForCTC, Trainer, TrainingArguments

generator = torch.Generator().manual_seed(0)
dataset = [{"input_values": torch.randn(6000, generator=generator), "labels": torch.tensor([5, 9, 7])} for _ in range(2)]
base = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.0))
for name, parameter in model.named_parameters():
    if "lora_" in name:
        parameter.data = torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter)
arguments = TrainingArguments(
    output_dir="run",
    max_steps=2,
    logging_steps=1,
    learning_rate=1e-3,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
    label_names=["labels"],
)
trainer = Trainer(model=model, args=arguments, train_dataset=dataset)
trainer.train()
trainer.save_model("adapter")
fresh = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
reloaded = PeftModel.from_pretrained(fresh, "adapter").eval()
with torch.no_grad():
    logits = reloaded(dataset[0]["input_values"][None]).logits
result = {"losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], "logits": logits}
