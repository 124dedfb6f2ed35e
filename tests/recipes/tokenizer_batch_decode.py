"""Decode ids of labels and of frames, from lists, arrays and tensors."""

import numpy as np
import torch
from transformers import Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
frames = [[11, 11, 0, 5, 15, 0, 15, 15, 8, 4, 4, 18], [0, 0, 12, 6, 8, 8, 23, 0, 0, 0, 0, 0]]
result = {
    "list": processor.batch_decode(frames),
    "array": processor.batch_decode(np.array(frames)),
    "tensor": processor.batch_decode(torch.tensor(frames)),
    "ungrouped": processor.batch_decode(frames, group_tokens=False),
    "one": processor.decode(frames[0]),
    "offsets": processor.batch_decode(frames, output_word_offsets=True).word_offsets,
}
