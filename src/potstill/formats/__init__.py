"""File formats of other runtimes: weights, names and tokens as these expect them."""
