"""Publishing to the Hugging Face Hub: file selection, model card, upload."""
