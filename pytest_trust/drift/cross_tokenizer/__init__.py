"""Two models with different tokenizers: no KL, but lower bounds and bits per byte."""
