"""Runner-specific configuration: Beam options, images, a Flink cluster, schedules."""
