"""Override options of the processor while loading it."""

import numpy as np
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor

name = "facebook/hubert-large-ls960-ft"
waveform = np.linspace(-1, 2, 2000, dtype=np.float32)
plain = Wav2Vec2FeatureExtractor.from_pretrained(name, do_normalize=False, return_attention_mask=False)
processor = Wav2Vec2Processor.from_pretrained(name, do_lower_case=True)
result = {
    "plain": dict(plain(waveform, sampling_rate=16000, return_tensors="np")),
    "lower": processor.tokenizer("stop").input_ids,
    "decoded": processor.decode(processor.tokenizer("stop it").input_ids),
}
