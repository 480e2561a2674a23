"""The command line. None of its modules run inside an edge."""
