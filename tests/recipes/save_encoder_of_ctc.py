"""Save the encoder of a fine-tuned model, and load it under another head."""

import torch
from transformers import HubertForCTC, HubertForSequenceClassification, HubertModel

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft")
model.hubert.save_pretrained("encoder")
encoder = HubertModel.from_pretrained("encoder").eval()
classifier, info = HubertForSequenceClassification.from_pretrained("encoder", num_labels=3, output_loading_info=True)
torch.manual_seed(0)
waveform = torch.randn(1, 8000)
with torch.no_grad():
    hidden = encoder(waveform).last_hidden_state
    again = classifier.hubert.eval()(waveform).last_hidden_state
result = {"hidden": hidden, "again": again, "missing": sorted(info["missing_keys"])}
