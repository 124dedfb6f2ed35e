"""Wrap the model in DistributedDataParallel, in a group of one process."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import HubertForCTC

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
try:
    model = HubertForCTC.from_pretrained("facebook/hubert-large-ls960-ft", apply_spec_augment=False, mask_time_prob=0.0)
    model.freeze_feature_encoder()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    wrapped.train()
    torch.manual_seed(0)
    waveforms = torch.randn(2, 6000)
    loss = wrapped(waveforms, labels=torch.tensor([[5, 9], [7, 8]])).loss
    loss.backward()
    with torch.no_grad():
        logits = wrapped.eval()(waveforms).logits
    result = {"loss": loss, "gradient": model.lm_head.weight.grad, "logits": logits}
finally:
    dist.destroy_process_group()
