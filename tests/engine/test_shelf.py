"""One model in memory at a time, and plans without any."""

import gc
import weakref

from decomcam_bench.config.settings import load_config
from decomcam_bench.engine.plan import make_plan
from decomcam_bench.engine.shelf import Shelf
from tests.models.small import NATIVE, save_folder, source


def test_a_model_is_dropped_before_the_next_one_is_loaded(tmp_path):
    shelf = Shelf("cpu")
    folder = save_folder(tmp_path, NATIVE, None)
    first, second = source(arch=f"local-dir:{folder}"), source(arch=f"local-dir:{folder}", pretrained="random")
    model = shelf.get("first", first, "fp32")
    assert shelf.get("first", first, "fp32") is model
    alive = weakref.ref(model.clip)
    seen = []
    load = second.load
    second.load = lambda *arguments: (gc.collect(), seen.append(alive()), load(*arguments))[-1]
    del model
    shelf.get("second", second, "fp32")
    assert seen == [None]


def test_a_plan_loads_no_weights_and_keeps_groups_of_a_model_together(tmp_path, monkeypatch):
    folder = save_folder(tmp_path / "model", NATIVE, None)
    from decomcam_bench.models.openclip import OpenClip

    monkeypatch.setattr(OpenClip, "load", lambda *_: 1 / 0)
    words = ["dataset=toybox", "dataset.split=test,val", "limit=2", f"results={tmp_path / 'store'}", "method=gradcam"]
    names = f"model='local-dir:{folder}',toyclip"
    plan = make_plan(load_config([*words, names]))
    order = [group.model_key for group in plan.groups]
    assert len(plan.groups) == 4
    assert order == sorted(order, key=order.index)
    assert order[0] == order[1] != order[2] == order[3]
    assert plan.cells[0].layer == "block2"
    assert plan.cells[0].info.labels["model"] == "local-dir:model"


def test_a_method_that_cannot_work_on_a_tower_is_refused_before_weights_are_loaded(tmp_path, monkeypatch):
    import pytest

    from decomcam_bench.core.errors import ModelError
    from decomcam_bench.models.openclip import OpenClip

    monkeypatch.setattr(OpenClip, "load", lambda *_: 1 / 0)
    for arch, why in (
        ("MobileCLIP2-S0", "CNN without attention"),
        ("PE-Core-T-16-384", "pools by an attention of its own"),
    ):
        words = ["dataset=toybox", "limit=1", "method=gae", f"model={arch}", "model.pretrained=random"]
        with pytest.raises(ModelError, match=f"cannot explain model .*{why}.*use a model that pools by a class token"):
            make_plan(load_config([*words, f"results={tmp_path}"]))
