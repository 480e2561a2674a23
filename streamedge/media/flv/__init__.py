"""FLV files: tags, index, layout."""
