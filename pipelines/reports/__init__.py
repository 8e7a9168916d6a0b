"""The data of the HTML pages."""
