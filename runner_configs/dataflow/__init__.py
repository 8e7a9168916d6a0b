"""Dataflow: the workers' image, and a Flex Template that starts whole nights."""
