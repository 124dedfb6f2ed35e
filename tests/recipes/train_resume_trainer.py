"""Resume a Trainer from its checkpoint folder."""

import torch
from transformers import HubertForCTC, Trainer, TrainingArguments

generator = torch.Generator().manual_seed(0)
dataset = [
    {"input_values": torch.randn(6000, generator=generator), "labels": torch.randint(5, 32, (3,), generator=generator)}
    for _ in range(4)
]


def trainer(steps):
    model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False)
    arguments = TrainingArguments(
        output_dir="run",
        per_device_train_batch_size=1,
        max_steps=steps,
        save_steps=1,
        logging_steps=1,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(model=model, args=arguments, train_dataset=dataset)


trainer(1).train()
resumed = trainer(2)
resumed.train(resume_from_checkpoint=True)
reloaded = HubertForCTC.from_pretrained("run/checkpoint-2").eval()
with torch.no_grad():
    logits = reloaded(dataset[0]["input_values"][None]).logits
result = {"losses": [entry["loss"] for entry in resumed.state.log_history if "loss" in entry], "logits": logits}
