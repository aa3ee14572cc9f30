"""Charts of the index: published accuracy against computation and time, as a picture or a web page."""
