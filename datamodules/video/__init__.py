"""Frames of a video by number: an interface, its decoders, and what keeps a bad file from stopping a run."""
