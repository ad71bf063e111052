"""Photographs that ship with the package, with boxes drawn by hand: real pictures where nothing can be downloaded."""
