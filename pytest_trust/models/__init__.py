"""One transformers model: its reference, files and identity, loading it and running it."""
