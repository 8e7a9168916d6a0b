"""Dataflow: the worker image, and a Flex Template that runs whole nights."""
