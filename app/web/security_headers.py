"""Headers of every answer: what browsers may load, run, remember and tell others of a page."""

HEADERS = {
    # nothing from elsewhere, no script but ours: an id that breaks out of its place still cannot run
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # card ids stand in addresses; with "no-referrer", browsers call the origin of our own forms "null"
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Accept",
}
#: Pages with scripts of ours: these, and what they ask us for, still nothing from elsewhere.
SCRIPTS = "; script-src 'self'; connect-src 'self'"
