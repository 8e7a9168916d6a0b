"""Simulate logs from a known model of users and videos. This package imports no other package of the product."""
