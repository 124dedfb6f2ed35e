"""Override fields of the configuration while loading, and keep unused keywords."""

from transformers import HubertConfig, HubertForCTC

name = "facebook/hubert-large-ls960-ft"
config, unused = HubertConfig.from_pretrained(name, final_dropout=0.3, spam=1, return_unused_kwargs=True)
model = HubertForCTC.from_pretrained(name, config=config)
other = HubertForCTC.from_pretrained(name, final_dropout=0.2, ctc_loss_reduction="mean", mask_time_prob=0.0)
result = {
    "unused": unused,
    "dropout": [model.config.final_dropout, model.dropout.p, other.dropout.p],
    "loss": [other.config.ctc_loss_reduction, other.config.mask_time_prob],
}
