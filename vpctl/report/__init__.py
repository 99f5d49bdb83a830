"""Results for people: intervals, and an HTML page with tables, curves and pictures."""
