"""Untrimmed videos with labeled segments, for temporal action localization."""
