"""What people look at: intervals, and a page with tables, curves and pictures."""
