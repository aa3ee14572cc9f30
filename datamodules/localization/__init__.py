"""Untrimmed videos with labeled segments."""
