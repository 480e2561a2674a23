"""Who may have it: signed URLs and cookies, countries, and whose word counts for an address."""
