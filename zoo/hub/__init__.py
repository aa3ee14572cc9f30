"""The only code that touches weight files, the cache or a network."""
