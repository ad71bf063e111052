"""decomcam-bench: a benchmark of saliency maps for CLIP-like models."""

__version__ = "0.1.0"
