"""Records into statements: statistics, tables, figures and one self-contained HTML page."""
