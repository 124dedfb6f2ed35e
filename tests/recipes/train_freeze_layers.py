"""Freeze the encoder, then its lower layers only, and count what trains."""

from transformers import HubertForSequenceClassification

model = HubertForSequenceClassification.from_pretrained("superb/hubert-base-superb-ks")
result = {"all": model.num_parameters(only_trainable=True)}
model.freeze_base_model()
result["head"] = sorted(name for name, p in model.named_parameters() if p.requires_grad)
for parameter in model.parameters():
    parameter.requires_grad = True
for layer in model.hubert.encoder.layers[:2]:
    for parameter in layer.parameters():
        parameter.requires_grad = False
result["upper"] = model.num_parameters(only_trainable=True)
model.freeze_feature_encoder()
result["without convolutions"] = model.num_parameters(only_trainable=True)
