"""Tables, learning curves and pages: reads run directories and result files, never models."""
