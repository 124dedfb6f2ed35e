"""Let Trainer make the model by model_init, from its own seed."""

import torch
from transformers import HubertConfig, HubertForCTC, Trainer, TrainingArguments

config = HubertConfig.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)


def model_init():
    model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", config=config)
    return model


generator = torch.Generator().manual_seed(0)
dataset = [{"input_values": torch.randn(6000, generator=generator), "labels": torch.tensor([5, 9])} for _ in range(2)]
arguments = TrainingArguments(
    output_dir="run", max_steps=1, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True
)
trainer = Trainer(model_init=model_init, args=arguments, train_dataset=dataset)
trainer.train()
result = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
