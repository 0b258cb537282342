"""The acoustic model of the paper's section 4.2: the phone of every frame of speech."""
