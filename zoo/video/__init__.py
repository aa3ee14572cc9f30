"""Video files -> clips for a protocol: decoders, frame sampling, pixel transforms and views."""
