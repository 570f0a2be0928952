"""The look of Data Docs without a network: the few Bootstrap classes that their templates use."""

STYLED = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Content security policy of a page that runs and loads nothing."""
DRAWN = f"{STYLED} blob:; font-src data:; script-src 'unsafe-inline'"
"""The same for a page that its own script draws."""


def meta(policy: str) -> str:
    """Tells a browser the policy in the page itself, wherever it is opened from."""
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'


NO_SCRIPT = meta(STYLED)
PAGE_STYLE = """
body{font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#212529;background:#fff;margin:0}
a{color:#0b5cad;text-decoration:none} a:hover{text-decoration:underline}
.container-fluid{padding:0 1.2rem} .row{display:flex;flex-wrap:wrap}
[class*="col-"]{box-sizing:border-box;flex:0 0 100%;max-width:100%}
.col-md-2{display:none}
table{border-collapse:collapse;margin-bottom:1rem} td,th{padding:.35rem .6rem;vertical-align:top;text-align:left}
.table td,.table th,.table-bordered td,.table-bordered th{border:1px solid #dee2e6} th{background:#f5f6f8}
.table-responsive{overflow-x:auto} h1,h2,h3,h4,h5,h6{margin:.9rem 0 .4rem;font-weight:600}
h5{font-size:1.1rem} h6{font-size:.95rem}
.alert{padding:.6rem 1rem;border-radius:4px;margin:1rem 0 .5rem} .alert-secondary{background:#e9ecef}
.badge{display:inline-block;padding:.1em .45em;border-radius:4px;font-size:.85em;font-weight:600}
.badge-secondary{background:#e2e6ea;color:#343a40} .badge-danger{background:#c62828;color:#fff}
.badge-info{background:#0b5cad;color:#fff} .badge-warning{background:#f0ad4e}
.text-success{color:#2e7d32} .text-danger{color:#c62828} .text-warning{color:#b26a00}
.fas{font-style:normal;font-weight:700} .fa-check-circle::before{content:"\\2714"}
.fa-times::before{content:"\\2718"} .fa-exclamation-triangle::before{content:"?"}
.nav,.breadcrumb,ol,ul{padding-left:1rem} .breadcrumb{list-style:none;padding:0}
.nav{list-style:none;padding:0} .collapse{display:block} .d-none{display:none}
.card{border:1px solid #dee2e6;border-radius:4px;padding:.5rem;margin-bottom:.8rem}
.sticky{position:sticky;top:1rem} .sticky-top,.navbar,.btn,[data-toggle="collapse"]{display:none!important}
"""
