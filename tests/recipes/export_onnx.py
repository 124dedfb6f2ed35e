"""Export to ONNX, and run it with ONNX Runtime at another length."""

import onnxruntime
import torch
from transformers import HubertForCTC

model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft").eval()
torch.manual_seed(0)
torch.onnx.export(
    model,
    (torch.randn(1, 8000),),
    "model.onnx",
    input_names=["input_values"],
    output_names=["logits"],
    dynamic_axes={"input_values": {0: "batch", 1: "samples"}, "logits": {0: "batch", 1: "frames"}},
    dynamo=False,
)
session = onnxruntime.InferenceSession("model.onnx")
result = session.run(["logits"], {"input_values": torch.randn(1, 9600).numpy()})[0]
