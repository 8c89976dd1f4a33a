"""A finished sweep's runs → which cell is best, how sure one can be, and a page that says so."""
