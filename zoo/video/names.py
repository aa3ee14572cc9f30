"""Names in options and files of videos. Importing this module does not import torch or a decoder."""

DECODERS = ("pyav", "torchcodec")
SHARD_MANIFEST = "shards.json"  # in a folder of shards: the position of every video
