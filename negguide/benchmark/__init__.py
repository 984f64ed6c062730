"""A measured comparison of the methods on real weights: what is kept, what is gone, how alike, how fast.

`suites` says what is drawn and asked, `columns` which methods are compared, `runner` draws what is missing in a folder,
`judges` and `similarity` look at the pictures, `figures` counts, `report` writes table, plot and contact sheet.
"""
