"""The control log and the resources of the API, both in ``control.db`` of the cache folder."""
