"""The look of a report: readable without a network, in light and dark."""

STYLE = """
:root{color-scheme:light dark;--ink:#1f2430;--quiet:#636b7a;--page:#f5f6f8;--card:#fff;--line:#dfe3ea;
--blue:#2f6db5;--red:#c0392b;--green:#2b7d4b;--amber:#9a6700;--band:rgba(47,109,181,.18)}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7ed;--quiet:#98a1b2;--page:#14171c;--card:#1d2128;
--line:#333a45;--blue:#76aef0;--red:#ff8172;--green:#6fcf97;--amber:#e3b341;--band:rgba(118,174,240,.2)}}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:var(--page);
margin:0;padding:1.5rem 1rem 4rem}
main{max-width:60rem;margin:0 auto}
h1{font-size:1.5rem;line-height:1.3;margin:.2rem 0 .4rem}
h2{font-size:1.1rem;margin:0 0 .6rem}
section,header{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1rem 1.2rem;
margin:0 0 1rem}
header{border-left:6px solid var(--quiet)}
header.good{border-left-color:var(--green)} header.bad{border-left-color:var(--red)}
header.wait{border-left-color:var(--amber)}
header p{margin:.3rem 0;font-size:1.05rem;overflow-wrap:anywhere}
.quiet{color:var(--quiet)} .small{font-size:.85rem}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:.6rem 1rem;margin:.8rem 0 0}
dt{color:var(--quiet);font-size:.8rem} dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th{text-align:left;color:var(--quiet);font-weight:600;white-space:nowrap}
td,th{padding:.4rem .7rem .4rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td{overflow-wrap:anywhere;min-width:4.5rem} td:last-child{min-width:5.5rem}
td:first-child,.nobr{white-space:nowrap}
.badge{display:inline-block;border-radius:5px;padding:.05em .5em;font-size:.82rem;font-weight:600;white-space:nowrap;
border:1px solid currentColor}
.badge.good{color:var(--green)} .badge.bad{color:var(--red)} .badge.wait{color:var(--amber)}
.badge.plain{color:var(--quiet)}
a{color:var(--blue)}
figure{margin:0 0 1.2rem} figure h3{font-size:.95rem;margin:0 0 .2rem} figcaption{font-size:.85rem;color:var(--quiet)}
svg{width:100%;height:auto;display:block;overflow:visible}
svg text{font:11px system-ui,sans-serif;fill:var(--quiet)}
svg .axis{stroke:var(--line)} svg .line{fill:none;stroke:var(--blue);stroke-width:1.8;stroke-linejoin:round}
svg .area{fill:var(--band);stroke:none} svg .limit{stroke:var(--red);stroke-width:1.3;stroke-dasharray:6 4}
svg .zero{stroke:var(--quiet);stroke-width:.8} svg .dot{fill:var(--blue)}
svg .mark{stroke:var(--quiet);stroke-width:1;stroke-dasharray:2 3} svg .limit-text{fill:var(--red)}
"""
