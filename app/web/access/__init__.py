"""Who may ask for a page: users and tokens, sessions, how often somebody may ask."""
