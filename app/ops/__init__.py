"""Tools beside the stream: verify and its reference implementation, replay, rebuild, dead letters, files, training."""
