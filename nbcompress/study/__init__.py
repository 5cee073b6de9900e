"""What was tried? Trials and studies, kept on disk."""
