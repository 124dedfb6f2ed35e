"""Decode frames with skip_special_tokens."""

from transformers import Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
frames = [11, 11, 0, 5, 15, 0, 15, 15, 8, 4, 4, 18]
result = [processor.decode(frames), processor.decode(frames, skip_special_tokens=True)]
