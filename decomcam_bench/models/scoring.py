"""From cosine similarities to scores, as a model was trained to read them.

Contrastive models (CLIP, OpenCLIP, EVA, ...) are trained with a softmax over ``scale * cosine``, SigLIP with a sigmoid
of ``scale * cosine + bias``. Scale and bias are parameters of the model and come with its weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

#: Scores of a similarity: what methods may differentiate and metrics may measure. ``dot`` needs features, see
#: :func:`decomcam_bench.models.clip.text_scores`.
SIMILARITY_SCORES = ("logits", "cosine", "softmax", "sigmoid")
#: CLIP clips its scale at 100, and OpenAI's and LAION's weights are at the clip; half precision stores it as 100.03.
CLIP_SCALE = 100.0
_ROUNDING = 1e-3


@dataclass(frozen=True)
class LogitScale:
    """What turns a cosine into a logit.

    Attributes:
        scale: factor of the cosine.
        bias: added to it; 0 in models without one.
    """

    scale: float = CLIP_SCALE
    bias: float = 0.0

    @classmethod
    def of(cls, clip: Any) -> LogitScale:
        """Read the scale and the bias of a model of open_clip.

        A scale within 0.1 % of CLIP's 100 is 100: the rest is rounding of the logarithm that the weights store.
        """
        scale = math.exp(float(clip.logit_scale.detach().float().mean()))
        bias = getattr(clip, "logit_bias", None)
        if abs(scale / CLIP_SCALE - 1) < _ROUNDING:
            scale = CLIP_SCALE
        return cls(scale, 0.0 if bias is None else float(bias.detach().float().mean()))

    def scores(self, similarity: Tensor, kind: str) -> Tensor:
        """Return scores (M, K) of cosine similarities (M, K) with every text.

        Args:
            kind: ``cosine``; ``logits``, scale * cosine + bias; ``softmax``, of the logits over the K texts; or
                ``sigmoid``, of each logit alone.
        """
        if kind == "cosine":
            return similarity
        logits = self.scale * similarity
        if kind == "softmax":
            return logits.softmax(dim=1)
        if self.bias:
            logits = logits + self.bias
        return logits.sigmoid() if kind == "sigmoid" else logits


#: The scale of CLIP itself, for models that say nothing of theirs.
CLIP = LogitScale()
