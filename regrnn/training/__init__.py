"""The loop, learning-rate rules, checkpoints and exact resume, over anything that is a `Task`."""
