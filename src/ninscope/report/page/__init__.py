"""report.html: tables in, one page out."""
