"""Call the processor with the padding variants and return types."""

import soundfile as sf
from transformers import Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
speech = [sf.read(f"audio/{name}.wav", dtype="float32")[0][:8000] for name in ("stop", "fan")]
speech[1] = speech[1][:6000]
result = {
    "longest": dict(processor(speech, sampling_rate=16000, padding="longest", return_tensors="np")),
    "max_length": dict(processor(speech, sampling_rate=16000, padding="max_length", max_length=9000, return_tensors="pt")),
    "truncated": dict(
        processor(speech, sampling_rate=16000, padding="max_length", max_length=5000, truncation=True, return_tensors="pt")
    ),
    "multiple": dict(processor(speech, sampling_rate=16000, padding=True, pad_to_multiple_of=1000, return_tensors="pt")),
    "no mask": dict(processor(speech, sampling_rate=16000, padding=True, return_attention_mask=False, return_tensors="pt")),
    "lists": [len(row) for row in processor(speech, sampling_rate=16000).input_values],
}
