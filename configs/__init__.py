"""The Hydra configuration tree: one YAML is one choice."""
