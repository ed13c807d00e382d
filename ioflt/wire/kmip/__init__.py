"""KMIP 1.0 to 1.4, and both sides of a conversation. See SPEC.md.

ttlv, xml              bytes ↔ items; the XML form ↔ items
tags, enumerations     names ↔ numbers
messages, structure    items ↔ frozen objects: which there are, and how fields are found
connection             a conversation, without the socket
"""
