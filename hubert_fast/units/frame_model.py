"""The model of an `Encoder`: HuBERT up to some layers, then a projection and the nearest centroids if there are any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..config import HubertConfig
from ..modeling import HubertModel
from ..ops.unit_argmin import unit_argmin
from ..packed import PackedAudio
from .centroids import Centroids
from .codebook import Projection

FRAME_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class FrameModel(nn.Module):
    """Computes the states of some layers of a HuBERT, or the unit of each frame of one layer.

    Args:
        hubert: The encoder.
        layers: The layers whose states are computed: see `HubertModel.forward`.
        final_norm: Whether they are taken after the final norm: see `HubertModel.forward`.
        dtype: The dtype of the frames that `forward` returns: float32 or float16.
        projection: A linear map to apply to the states.
        centroids: The centroids; without them, `forward` returns frames.
    """

    centroids: Tensor

    def __init__(
        self,
        hubert: HubertModel,
        layers: Sequence[int],
        final_norm: bool | None = None,
        dtype: str = "float32",
        projection: Projection | None = None,
        centroids: Centroids | None = None,
    ):
        super().__init__()
        self.hubert, self.final_norm, self.frame_dtype = hubert, final_norm, FRAME_DTYPES[dtype]
        self.layers = hubert.encoder.select(None, layers, final_norm).states
        self.projections = nn.ModuleList(
            _linear(each) for each in (projection, None if centroids is None else centroids.projection) if each is not None
        )
        if centroids is not None:
            self.register_buffer("centroids", torch.from_numpy(np.ascontiguousarray(centroids.values)))
        self.has_centroids = centroids is not None

    @property
    def config(self) -> HubertConfig:
        return self.hubert.config

    @property
    def device(self) -> torch.device:
        return self.hubert.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hubert.dtype

    def frame_counts(self, samples: Tensor) -> Tensor:
        """Return the number of frames for numbers of samples."""
        return self.hubert.frame_counts(samples)

    def forward(self, audio: PackedAudio) -> tuple[Tensor, ...]:
        """Run a packed batch.

        Returns:
            The states of each layer, `[N, C]` in the dtype of frames. With centroids, the unit of each frame, int32 `[N]`, and
            whether the frame is finite, bool `[N]`.
        """
        states = self.hubert.forward_packed(audio, layers=self.layers, final_norm=self.final_norm).hidden_states
        assert states is not None  # the states of layers are always returned
        frames = [self._projected(state) for state in states]
        if not self.has_centroids:
            return tuple(frame.to(self.frame_dtype) for frame in frames)
        return unit_argmin(frames[0], self.centroids), frames[0].sum(-1, dtype=torch.float32).isfinite()

    def _projected(self, x: Tensor) -> Tensor:
        for projection in self.projections:
            x = projection(x.float())
        return x


def _linear(projection: Projection) -> nn.Linear:
    """Return a projection as a layer in float32, whatever the dtype of the model: it is small, and what it returns is kept."""
    outputs, inputs = projection.weight.shape
    layer = nn.Linear(inputs, outputs, bias=projection.bias is not None)
    layer.weight.data = torch.from_numpy(np.array(projection.weight, np.float32))
    if projection.bias is not None:
        layer.bias.data = torch.from_numpy(np.array(projection.bias, np.float32))
    return layer.requires_grad_(False)
