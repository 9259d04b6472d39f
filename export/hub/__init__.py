"""Publishing on the Hugging Face Hub: selection of files, model card, upload."""
