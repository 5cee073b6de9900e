"""What a reader sees: the live panel, saved output, cards of results and the page of a report.

Import from the modules themselves: `document`, `figures` and `cards` need seaborn, `live` needs ipywidgets, and a
search needs neither.
"""
