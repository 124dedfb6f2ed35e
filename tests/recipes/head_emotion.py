"""Define HubertForSpeechClassification with merged_strategy, as a well-known notebook on emotions does."""

from dataclasses import dataclass
from typing import Optional, Tuple

import torch
import torch.nn as nn
from torch.nn import CrossEntropyLoss
from transformers import HubertConfig
from transformers.file_utils import ModelOutput
from transformers.models.hubert.modeling_hubert import HubertModel, HubertPreTrainedModel


@dataclass
class SpeechClassifierOutput(ModelOutput):
    loss: Optional[torch.FloatTensor] = None
    logits: torch.FloatTensor = None
    hidden_states: Optional[Tuple[torch.FloatTensor]] = None
    attentions: Optional[Tuple[torch.FloatTensor]] = None


class HubertClassificationHead(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.final_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features, **kwargs):
        x = self.dropout(features)
        x = torch.tanh(self.dense(x))
        return self.out_proj(self.dropout(x))


class HubertForSpeechClassification(HubertPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.pooling_mode = config.pooling_mode
        self.config = config
        self.hubert = HubertModel(config)
        self.classifier = HubertClassificationHead(config)
        self.post_init()

    def freeze_feature_extractor(self):
        for parameter in self.hubert.feature_extractor.parameters():
            parameter.requires_grad = False

    def merged_strategy(self, hidden_states, mode="mean"):
        if mode == "mean":
            return torch.mean(hidden_states, dim=1)
        if mode == "sum":
            return torch.sum(hidden_states, dim=1)
        return torch.max(hidden_states, dim=1)[0]

    def forward(self, input_values, attention_mask=None, return_dict=None, labels=None):
        return_dict = return_dict if return_dict is not None else self.config.use_return_dict
        outputs = self.hubert(input_values, attention_mask=attention_mask, return_dict=return_dict)
        logits = self.classifier(self.merged_strategy(outputs[0], mode=self.pooling_mode))
        loss = CrossEntropyLoss()(logits.view(-1, self.num_labels), labels.view(-1)) if labels is not None else None
        return SpeechClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


config = HubertConfig.from_pretrained("facebook/hubert-base-ls960", num_labels=3, finetuning_task="wav2vec2_clf")
config.pooling_mode = "mean"
model = HubertForSpeechClassification.from_pretrained("facebook/hubert-base-ls960", config=config)
model.freeze_feature_extractor()
with torch.no_grad():
    for parameter in model.classifier.parameters():
        parameter.copy_(torch.linspace(-0.2, 0.2, parameter.numel()).view_as(parameter))
torch.manual_seed(0)
waveforms = torch.randn(2, 8000)
loss = model(waveforms, labels=torch.tensor([0, 2])).loss
loss.backward()
model.eval()
model.save_pretrained("emotions")
reloaded = HubertForSpeechClassification.from_pretrained("emotions").eval()
with torch.no_grad():
    logits, again = model(waveforms).logits, reloaded(waveforms).logits
result = {"loss": loss, "logits": logits, "again": again, "pooling": reloaded.config.pooling_mode}
