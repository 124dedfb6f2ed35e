"""Save by Trainer.save_model, and load the folder."""

import torch
from transformers import HubertForSequenceClassification, Trainer, TrainingArguments

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks")
trainer = Trainer(model=model, args=TrainingArguments(output_dir="run", report_to=[], use_cpu=True))
trainer.save_model("saved")
reloaded = HubertForSequenceClassification.from_pretrained("saved").eval()
torch.manual_seed(0)
with torch.no_grad():
    result = reloaded(torch.randn(2, 8000)).logits
