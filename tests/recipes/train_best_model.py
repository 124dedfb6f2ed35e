"""Evaluate after each step, and load the best model at the end."""

import torch
from transformers import HubertForCTC, Trainer, TrainingArguments

generator = torch.Generator().manual_seed(0)
dataset = [
    {"input_values": torch.randn(6000, generator=generator), "labels": torch.randint(5, 32, (3,), generator=generator)}
    for _ in range(2)
]
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
arguments = TrainingArguments(
    output_dir="run",
    per_device_train_batch_size=2,
    max_steps=3,
    eval_strategy="steps",
    eval_steps=1,
    save_steps=1,
    save_total_limit=1,
    load_best_model_at_end=True,
    learning_rate=3e-4,
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
trainer = Trainer(model=model, args=arguments, train_dataset=dataset, eval_dataset=dataset)
trainer.train()
losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
result = {"losses": losses, "best": trainer.state.best_metric, "final": trainer.evaluate()["eval_loss"]}
