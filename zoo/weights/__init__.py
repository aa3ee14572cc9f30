"""Bytes -> tensors: file formats, conversion rules, the cache, downloads, digests and mirrors."""
