"""Who may do what on the admin address: users, tokens, sessions, and calls of web pages."""
