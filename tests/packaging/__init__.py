"""The files with which the edge is installed: the systemd unit, the packages, the image."""
