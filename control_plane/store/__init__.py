"""Where the plane keeps what it knows: a port, and its implementations."""
