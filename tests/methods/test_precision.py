"""Maps in half precision against those in float32."""

from __future__ import annotations

import pytest
import torch

from decomcam_bench.config import registry
from tests.parity.subjects import SIDE, Subject


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["gradcam_pp", "xgradcam", "eigengradcam"])
def test_formulas_that_magnify_rounding_take_float32(name: str, precision: str) -> None:
    """Exactly the maps of a float32 run, on tokens whose sums cancel; Grad-CAM takes half precision as it is."""
    subject = Subject.of("vit")
    method, plain = (registry.build("method", registry.read("method", n)) for n in (name, "gradcam"))
    full, full_plain = (subject.explain(m, "block5").maps((SIDE, SIDE)) for m in (method, plain))
    subject.model.precision = precision
    assert torch.equal(subject.explain(method, "block5").maps((SIDE, SIDE)), full)
    assert not torch.equal(subject.explain(plain, "block5").maps((SIDE, SIDE)), full_plain)
    assert subject.model.precision == precision
