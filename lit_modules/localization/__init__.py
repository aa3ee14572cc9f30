"""Training of temporal action localization."""
