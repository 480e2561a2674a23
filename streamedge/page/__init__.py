"""The operators' page: HTML, styles and ES modules, which ``admin.page`` serves."""
