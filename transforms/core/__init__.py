"""Building blocks for Beam, polars and files that know nothing about watches or videos."""
