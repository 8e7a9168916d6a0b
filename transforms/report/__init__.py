"""Render the report of a night and the page of all nights, as HTML files that open offline.

    html = render_report(Report(date="2026-11-21", status=Status(text="published", level="ok"), systems={...}))

`page` contains the data of a report and of the page of all nights, and their rendering, `plots` the plots, `video_map`
the projection of video vectors, and `figures` the formatting of numbers. There is a template for each section.
"""
