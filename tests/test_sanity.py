"""What the numbers can tell apart: chance, an untrained model, the trained one, the annotation."""

import numpy as np
import pytest

from decomcam_bench.datasets.toybox_scenes import draw_scene

SCENES = 100
LOCALISATION = ("pointing_exact", "energy", "maxboxacc", "maxboxacc_v2", "otsu_box", "mean_best_iou", "pxap")


@pytest.fixture(scope="module")
def table(bench, tmp_path_factory):
    from decomcam_bench.results.tables import load_table

    store = tmp_path_factory.mktemp("sanity")
    metrics = f"metric={','.join(LOCALISATION)}"
    result, _ = bench(store, f"limit={SCENES}", "method=decomcam", "controls=true", metrics)
    table = load_table(store, result.keys, intervals=True)
    trained = ~table["model"].str.contains("untrained")
    return table.set_index(table["method"].where(trained, "untrained"))


@pytest.mark.slow
def test_random_pointing_is_chance(table):
    shares = {}
    for index in range(SCENES):
        regions = {}
        for instance in draw_scene("test", index).instances:
            regions[instance.class_id] = regions.get(instance.class_id, False) | instance.mask
        for class_id, region in regions.items():
            shares.setdefault(class_id, []).append(region.mean())
    chance = np.mean([np.mean(p) for p in shares.values()])
    variance = sum(np.sum(np.multiply(p, np.subtract(1, p))) / len(p) ** 2 for p in shares.values())
    assert abs(table.loc["random", "pointing_exact"] - chance) <= 3 * np.sqrt(variance) / len(shares)


@pytest.mark.slow
@pytest.mark.parametrize("metric", LOCALISATION)
def test_annotation_above_trained_above_untrained_and_random(table, metric):
    (column,) = [name for name in table.columns if name in (metric, f"{metric}_mean")]
    low, high = table[f"{column}_low"], table[f"{column}_high"]
    assert low["oracle"] > high["decomcam"]
    assert low["decomcam"] > max(high["untrained"], high["random"])


@pytest.mark.slow
def test_an_untrained_model_points_less_than_half_as_well(table):
    assert table.loc["decomcam", "pointing_exact"] >= 0.75
    assert table.loc["untrained", "pointing_exact"] < table.loc["decomcam", "pointing_exact"] / 2
