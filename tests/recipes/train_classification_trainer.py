"""Train and predict a classifier with Trainer and a weighted sum of layers."""

import numpy as np
import torch
from transformers import HubertForSequenceClassification, Trainer, TrainingArguments

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks", mask_time_prob=0.0)
generator = torch.Generator().manual_seed(0)
dataset = [{"input_values": torch.randn(6000, generator=generator), "labels": i % 6} for i in range(4)]
arguments = TrainingArguments(
    output_dir="classifier",
    per_device_train_batch_size=2,
    max_steps=2,
    learning_rate=1e-3,
    logging_steps=1,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
trainer = Trainer(
    model=model,
    args=arguments,
    train_dataset=dataset,
    eval_dataset=dataset,
    compute_metrics=lambda pred: {"accuracy": float((np.argmax(pred.predictions, axis=1) == pred.label_ids).mean())},
)
trainer.train()
prediction = trainer.predict(dataset)
result = {
    "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    "predictions": prediction.predictions,
    "labels": prediction.label_ids,
    "accuracy": prediction.metrics["test_accuracy"],
}
