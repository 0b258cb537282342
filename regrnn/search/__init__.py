"""Search and sampling over anything that steps."""
