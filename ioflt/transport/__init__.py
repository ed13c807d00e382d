"""The only sockets: `unix` with peer credentials, `tls` and `https` with verified servers. No messages."""
