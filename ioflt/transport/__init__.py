"""Unix sockets with peer credentials. Knows no message."""
