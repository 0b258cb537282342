"""Text files, vocabularies, streams of token ids on disk, and where data sets live."""
