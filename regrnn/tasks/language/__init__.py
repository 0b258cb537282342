"""The language model of the paper's section 4.1."""
