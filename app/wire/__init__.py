"""What comes in and goes out: records of the topics, their formats, and how they are decoded and encoded."""
