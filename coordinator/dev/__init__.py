"""Real servers for development, demos and tests: started, stopped, killed, frozen and restarted by their owner."""
