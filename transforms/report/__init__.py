"""The report of a night and the page of all nights: HTML files that open offline, for people.

    html = render_report(Report(date="2026-11-21", status=Status(text="published", level="ok"), systems={...}))

`page` is what a report shows and how it becomes text, `plots` draws, `video_map` lays vectors out in two dimensions,
`nights` is the page of all nights, `figures` writes numbers as people read them. Templates lie beside, one a section.
"""
