"""Nodes that come when they are needed and go when they are not."""
