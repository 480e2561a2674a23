"""MP3 files."""
