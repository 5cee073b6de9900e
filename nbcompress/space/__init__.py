"""What may vary? Parameters, spaces, and the declarations of a cell."""
