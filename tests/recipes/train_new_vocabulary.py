"""Start from a pretrained encoder with a new vocabulary and a new head, from a seed."""

from transformers import HubertForCTC, set_seed

set_seed(0)
model = HubertForCTC.from_pretrained(
    "facebook/hubert-base-ls960",
    attention_dropout=0.1,
    hidden_dropout=0.1,
    feat_proj_dropout=0.0,
    mask_time_prob=0.05,
    layerdrop=0.1,
    ctc_loss_reduction="mean",
    pad_token_id=7,
    vocab_size=40,
)
model.freeze_feature_encoder()
result = {
    "head": [list(model.lm_head.weight.shape), model.lm_head.weight.std().round(decimals=2), model.lm_head.bias],
    "blank": model.config.pad_token_id,
    "reduction": model.config.ctc_loss_reduction,
    "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    "encoder": model.hubert.encoder.layers[1].feed_forward.output_dense.weight,
}
