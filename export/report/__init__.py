"""The report of an export as a page, with its pictures."""
