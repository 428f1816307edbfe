"""What goes over the wire to teachers: addresses, keys, patience, limits, and each provider's words."""
