"""Translation: one LSTM reads the source and writes the target (the paper's third system)."""
