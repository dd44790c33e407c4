"""Samplers for other frameworks: files to copy, which import nothing of this project."""
