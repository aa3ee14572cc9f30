"""`tempozoo data`: check, prepare, describe and index the videos of a data set."""
