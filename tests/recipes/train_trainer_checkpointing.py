"""Train with Trainer's gradient checkpointing and gradient accumulation."""

import torch
from transformers import HubertForCTC, Trainer, TrainingArguments

generator = torch.Generator().manual_seed(0)
dataset = [
    {"input_values": torch.randn(6000, generator=generator), "labels": torch.randint(5, 32, (3,), generator=generator)}
    for _ in range(4)
]
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
arguments = TrainingArguments(
    output_dir="run",
    per_device_train_batch_size=1,
    gradient_accumulation_steps=2,
    gradient_checkpointing=True,
    max_steps=2,
    logging_steps=1,
    learning_rate=1e-5,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
trainer = Trainer(model=model, args=arguments, train_dataset=dataset)
trainer.train()
result = [[entry["loss"], entry["grad_norm"]] for entry in trainer.state.log_history if "loss" in entry]
