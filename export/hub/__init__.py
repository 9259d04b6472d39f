"""Publishing on the Hugging Face Hub: what goes, its model card, the upload."""
