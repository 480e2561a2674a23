"""Clients and servers of CloudFront's API for tests."""
