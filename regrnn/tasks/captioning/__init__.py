"""Captions: an image's vector into an LSTM that writes the text (Vinyals et al. 2014; the paper's fourth system)."""
