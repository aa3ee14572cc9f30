"""Temporal action localization: segments of an untrimmed video with a label and a score, in plain PyTorch."""
