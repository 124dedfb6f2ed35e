"""Override compute_loss of Trainer, to weight the loss."""

import torch
from transformers import HubertForSequenceClassification, Trainer, TrainingArguments


class WeightedTrainer(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        weight = torch.linspace(0.5, 1.5, model.config.num_labels)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=weight)
        return (loss, outputs) if return_outputs else loss


generator = torch.Generator().manual_seed(0)
dataset = [{"input_values": torch.randn(6000, generator=generator), "labels": i % 6} for i in range(4)]
model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks", apply_spec_augment=False)
arguments = TrainingArguments(
    output_dir="run",
    per_device_train_batch_size=2,
    max_steps=2,
    logging_steps=1,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
trainer = WeightedTrainer(model=model, args=arguments, train_dataset=dataset, eval_dataset=dataset)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
result = {"losses": losses, "evaluated": trainer.evaluate()["eval_loss"]}
