"""Experiments: what the notebooks train and measure, built on the answers. File by file as `lessons`."""
