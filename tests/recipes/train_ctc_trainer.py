"""Fine-tune for CTC with Trainer, as the post by Patrick von Platen does."""

from dataclasses import dataclass
from typing import Union

import jiwer
import numpy as np
import soundfile as sf
from transformers import HubertForCTC, Trainer, TrainingArguments, Wav2Vec2Processor

TEXTS = {"stop": "STOP", "fan": "SWITCH ON THE OFFICE FAN", "window": "OPEN THE KITCHEN WINDOW"}
processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")


def prepare_dataset(name):
    speech, rate = sf.read(f"audio/{name}.wav")
    example = {"input_values": processor(speech, sampling_rate=rate).input_values[0]}
    example["labels"] = processor.tokenizer(TEXTS[name]).input_ids
    return example


@dataclass
class DataCollatorCTCWithPadding:
    processor: Wav2Vec2Processor
    padding: Union[bool, str] = True

    def __call__(self, features):
        input_features = [{"input_values": feature["input_values"]} for feature in features]
        label_features = [{"input_ids": feature["labels"]} for feature in features]
        batch = self.processor.feature_extractor.pad(input_features, padding=self.padding, return_tensors="pt")
        labels_batch = self.processor.tokenizer.pad(label_features, padding=self.padding, return_tensors="pt")
        batch["labels"] = labels_batch["input_ids"].masked_fill(labels_batch.attention_mask.ne(1), -100)
        return batch


def compute_metrics(pred):
    pred_ids = np.argmax(pred.predictions, axis=-1)
    pred.label_ids[pred.label_ids == -100] = processor.tokenizer.pad_token_id
    pred_str = processor.batch_decode(pred_ids)
    label_str = processor.batch_decode(pred.label_ids, group_tokens=False)
    return {"wer": jiwer.wer(label_str, pred_str)}


model = HubertForCTC.from_pretrained(
    "facebook/hubert-large-ls960-ft", ctc_loss_reduction="mean", pad_token_id=processor.tokenizer.pad_token_id
)
model.freeze_feature_encoder()
dataset = [prepare_dataset(name) for name in TEXTS]
arguments = TrainingArguments(
    output_dir="hubert-finetuned",
    per_device_train_batch_size=2,
    per_device_eval_batch_size=1,
    max_steps=2,
    learning_rate=1e-4,
    logging_steps=1,
    save_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
trainer = Trainer(
    model=model,
    data_collator=DataCollatorCTCWithPadding(processor=processor, padding=True),
    args=arguments,
    compute_metrics=compute_metrics,
    train_dataset=dataset,
    eval_dataset=dataset,
)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
metrics = trainer.evaluate()
result = {"losses": losses, "eval_loss": metrics["eval_loss"], "wer": metrics["eval_wer"]}
