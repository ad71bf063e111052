"""Find the packages, so that a new one needs no list; ``configs`` is shipped as ``decomcam_bench.configs``."""

from pathlib import Path

from setuptools import find_packages, setup

groups = [folder.name for folder in sorted(Path("configs").iterdir()) if any(folder.glob("*.yaml"))]
configs = ["decomcam_bench.configs", *(f"decomcam_bench.configs.{name}" for name in groups)]

setup(
    packages=[*find_packages(include=["decomcam_bench", "decomcam_bench.*"]), *configs],
    package_dir={"decomcam_bench.configs": "configs"},
    package_data={
        "decomcam_bench": ["py.typed"],
        "decomcam_bench.datasets.photos": ["annotations.csv", "CREDITS.md", "images/*.jpg"],
        "decomcam_bench.datasets.benchmarks": ["*.csv", "*.LICENSE"],
        "decomcam_bench.models": ["weights/*.safetensors", "weights/*.csv", "weights/*.md"],
        "decomcam_bench.reports": ["templates/*"],
        **{name: ["*.yaml"] for name in configs},
    },
)
