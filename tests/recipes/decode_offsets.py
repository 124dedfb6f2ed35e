"""Decode with word offsets, and turn them into seconds."""

import soundfile as sf
import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
speech, _ = sf.read("audio/window.wav")
inputs = processor(speech, sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    ids = model(**inputs).logits.argmax(dim=-1)
outputs = processor.tokenizer.decode(ids[0], output_word_offsets=True, output_char_offsets=True)
time_offset = 320 / processor.feature_extractor.sampling_rate
result = {
    "text": outputs.text,
    "words": [
        {
            "word": d["word"],
            "start_time": round(d["start_offset"] * time_offset, 2),
            "end_time": round(d["end_offset"] * time_offset, 2),
        }
        for d in outputs.word_offsets
    ],
    "characters": outputs.char_offsets,
}
