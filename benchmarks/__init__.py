"""kbn's layer and hook against Keras's and torch's, side by side: `make bench`."""
