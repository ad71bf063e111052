"""What the numbers can tell apart: chance, an untrained model, the trained one, the annotation."""

import numpy as np
import pytest

from decomcam_bench.datasets.toybox.scenes import draw_scene
from decomcam_bench.tables.tables import load_table

SCENES = 100
LOCALISATION = ("pointing_exact", "energy", "maxboxacc", "maxboxacc_v2", "otsu_box", "mean_best_iou", "pxap")


@pytest.mark.slow
def test_annotation_above_trained_above_untrained_above_chance(bench, tmp_path):
    run = ("method=decomcam", "controls=true", f"limit={SCENES}", f"metric={','.join(LOCALISATION)}")
    result, _ = bench(tmp_path, *run)
    table = load_table(tmp_path, result.keys, intervals=True, resamples=500)
    trained = ~table["model"].str.contains("untrained")
    table = table.set_index(table["method"].where(trained, "untrained"))
    for metric in LOCALISATION:
        low, high = table[f"{metric}_low"], table[f"{metric}_high"]
        assert low["oracle"] > high["decomcam"], metric
        assert low["decomcam"] > max(high["untrained"], high["random"]), metric
    pointing = table["pointing_exact"]
    assert pointing["decomcam"] >= 0.75
    assert pointing["untrained"] < pointing["decomcam"] / 2
    chance, error = chance_of_pointing()
    assert abs(pointing["random"] - chance) <= 3 * error


def chance_of_pointing():
    """Mean over classes of the share of pixels that a class covers, and the standard error of pointing at random."""
    shares = {}
    for index in range(SCENES):
        regions = {}
        for instance in draw_scene("test", index).instances:
            regions[instance.class_id] = regions.get(instance.class_id, False) | instance.mask
        for class_id, region in regions.items():
            shares.setdefault(class_id, []).append(region.mean())
    chance = np.mean([np.mean(p) for p in shares.values()])
    variance = sum(np.sum(np.multiply(p, np.subtract(1, p))) / len(p) ** 2 for p in shares.values())
    return chance, np.sqrt(variance) / len(shares)
