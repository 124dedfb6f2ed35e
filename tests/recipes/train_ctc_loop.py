"""Fine-tune for CTC in a plain PyTorch loop with AdamW and clipped gradients."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", mask_time_prob=0.0, mask_feature_prob=0.0)
model.freeze_feature_encoder()
model.train()
speech = [sf.read(f"audio/{name}.wav")[0] for name in ("stop", "fan")]
inputs = processor(speech, sampling_rate=16000, return_tensors="pt", padding=True)
labels = processor.tokenizer(["STOP", "SWITCH ON THE OFFICE FAN"], padding=True, return_tensors="pt")
labels = labels.input_ids.masked_fill(labels.attention_mask.ne(1), -100)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

losses = []
for _ in range(3):
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
result = {"losses": losses, "norm": norm, "weight": model.lm_head.weight}
