"""Add tokens, and give the model a head for them."""

from torch import nn
from transformers import HubertForCTC, Wav2Vec2Processor

processor = Wav2Vec2Processor.from_pretrained("facebook/hubert-large-ls960-ft")
model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
added = processor.tokenizer.add_tokens(["Ä", "Ö"])
head = nn.Linear(model.config.hidden_size, len(processor.tokenizer))
head.weight.data[:32] = model.lm_head.weight.data
head.bias.data[:32] = model.lm_head.bias.data
model.lm_head = head
model.config.vocab_size = len(processor.tokenizer)
result = {
    "added": added,
    "ids": processor.tokenizer("ÄÖA").input_ids,
    "text": processor.decode(processor.tokenizer("GÖTZ").input_ids),
    "size": model.config.vocab_size,
}
