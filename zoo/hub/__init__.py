"""The Hugging Face Hub: pull and push networks, with model cards."""
