"""The state of a card or terminal: recent transactions by event time, how they are stored, and questions to them."""
