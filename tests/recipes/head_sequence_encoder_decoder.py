"""Join the encoder to a text decoder by SpeechEncoderDecoderModel, and generate."""

import torch
from transformers import BertConfig, BertLMHeadModel, HubertModel, SpeechEncoderDecoderModel

encoder = HubertModel.from_pretrained("facebook/hubert-base-ls960")
torch.manual_seed(0)
decoder = BertLMHeadModel(
    BertConfig(
        vocab_size=40,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        is_decoder=True,
        add_cross_attention=True,
    )
)
with torch.no_grad():
    for parameter in decoder.parameters():
        parameter.add_(torch.linspace(-0.1, 0.1, parameter.numel()).view_as(parameter))
model = SpeechEncoderDecoderModel(encoder=encoder, decoder=decoder)
model.config.decoder_start_token_id = 1
model.config.pad_token_id = 0
model.generation_config.decoder_start_token_id = 1
model.generation_config.pad_token_id = 0
model.eval()
waveforms = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
labels = torch.tensor([[5, 6, 7], [8, 9, 10]])
with torch.no_grad():
    outputs = model(input_values=waveforms, labels=labels)
    generated = model.generate(waveforms, max_new_tokens=5, do_sample=False, eos_token_id=None)
result = {"loss": outputs.loss, "logits": outputs.logits, "generated": generated}
