"""What is kept of it? The packed file."""
