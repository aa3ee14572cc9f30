"""Predictions, timelines and features of videos, without Lightning."""
