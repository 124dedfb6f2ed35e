"""Pickle configuration, processor and outputs, as multiprocessing does."""

import pickle

import torch
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
inputs = processor(torch.randn(8000).numpy(), sampling_rate=16000, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs, output_hidden_states=True)
config, processor, inputs, outputs = pickle.loads(pickle.dumps((model.config, processor, inputs, outputs)))
result = {
    "size": config.hidden_size,
    "inputs": inputs.input_values,
    "logits": outputs.logits,
    "states": outputs.hidden_states[1],
    "text": processor.batch_decode(outputs.logits.argmax(-1)),
}
