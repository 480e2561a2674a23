"""Matroska, WebM, MPEG-TS and ADTS, packaged as FLV in segments by PyAV in a helper process."""
