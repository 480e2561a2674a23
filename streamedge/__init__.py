"""StreamEdge: one edge location of a content delivery network, RTMP and HTTP from one cache."""
