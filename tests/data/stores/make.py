"""Make the small store of the present schema that stays here for good: python tests/data/stores/make.py

Run it once when the schema is raised, and never again for that schema: the store must stay what the code of its
time wrote. ``schema1`` was written by the code of 25 November 2026, before schema 2, with these settings:

    method=decomcam,gradcam,random,center,oracle limit=6 save_maps=true
        metric=pointing_exact,energy,otsu_box,maxboxacc_v2,parts,efficiency
    method=decomcam rank=2 limit=6 metric=pointing_exact,energy,causal_first
    method=decomcam model=toyclip_untrained limit=6 metric=pointing_exact,energy
    method=scorecam model=toyclip_vit limit=6 metric=pointing,average_drop

Next to each store stands the table that the code of its time printed, as CSV.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import decomcam_bench as bench
from decomcam_bench.store.schema import SCHEMA

HERE = Path(__file__).resolve().parent
SMALL = ("limit=6", "workers=0", "device=cpu", "batch_size=8")


def main() -> None:
    """Write the store and its table."""
    root = HERE / f"schema{SCHEMA}"
    if root.exists():
        raise SystemExit(f"{root} is there already, and stays as it is")
    bench.run("method=decomcam,gradcam", "save_maps=true", "metric=pointing_exact,energy,parts", *SMALL, results=root)
    bench.run("method=random,center,oracle", "metric=pointing_exact,energy,otsu_box", *SMALL, results=root)
    bench.run("method=decomcam", "rank=2", "metric=energy,causal_first", *SMALL, results=root)
    shutil.rmtree(root / "runs")
    for leftover in (*root.rglob("lock"), *root.rglob("holder.json")):
        leftover.unlink()
    (HERE / f"schema{SCHEMA}.csv").write_text(bench.render(bench.load_table(root), "csv"), encoding="utf-8")


if __name__ == "__main__":
    main()
