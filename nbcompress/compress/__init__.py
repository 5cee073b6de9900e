"""What changes? The compressors and fine-tuning."""
