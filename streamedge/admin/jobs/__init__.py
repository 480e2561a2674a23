"""Long work that operators start: verifying and warming the cache."""
