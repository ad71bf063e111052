"""The version of decomcam-bench."""

__version__ = "0.1.0"
