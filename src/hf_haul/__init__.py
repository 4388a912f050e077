"""Resumable, verified, parallel downloads for the Hugging Face Hub."""

__all__: list[str] = []
