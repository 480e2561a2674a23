"""MP4 files: boxes, sample tables, codecs."""
