"""From jobs to stored results: local weights, recordings and servers behind one protocol."""
