"""How the report's page looks: in light, in dark, on a narrow screen and on paper."""

STYLE = """\
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f6f7f9; --text: #1c2026; --quiet: #59636f; --line: #d5dae1; --link: #0b57a4;
  --within: #17692f; --within-back: #def3e4; --below: #a32018; --below-back: #fce5e3;
  --above: #0b57a4; --above-back: #dfedfb; --smoke: #6d4a00; --smoke-back: #fff0cc; --smoke-line: #d99a00;
  --curve-0: #0b66c3; --curve-1: #b3420a; --curve-2: #6a3fb5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171c; --card: #1d2229; --text: #e6e9ee; --quiet: #a3adba; --line: #39414c; --link: #7cb8f5;
    --within: #7ddb97; --within-back: #17361f; --below: #ff9d94; --below-back: #451c1a;
    --above: #8cc4ff; --above-back: #172f4b; --smoke: #ffd978; --smoke-back: #3b2e0a; --smoke-line: #b98a17;
    --curve-0: #6fb1f7; --curve-1: #f2955f; --curve-2: #b99bf2;
  }
}
@media print {
  :root {
    color-scheme: light;
    --page: #fff; --card: #fff; --text: #000; --quiet: #444; --line: #999; --link: #000;
    --within: #17692f; --within-back: #fff; --below: #a32018; --below-back: #fff; --above: #0b57a4; --above-back: #fff;
    --smoke: #000; --smoke-back: #fff; --smoke-line: #000;
    --curve-0: #0b66c3; --curve-1: #b3420a; --curve-2: #6a3fb5;
  }
  html { font-size: 10.5px; }
  h2, h3 { break-after: avoid; }
  .card, tbody, figure { break-inside: avoid; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 0 0 .5rem; }
a { color: var(--link); }
p { margin: .5rem 0; max-width: 60rem; }
code, pre, dd, .error, .problem { overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .85em; }
pre { margin: .5rem 0; white-space: pre-wrap; background: var(--card); padding: .6rem; border: 1px solid var(--line); }
.headline { font-size: 1.15rem; font-weight: 600; max-width: none; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; padding: 0; margin: 1rem 0; list-style: none; }
.tiles li {
  flex: 1 1 7rem; padding: .5rem .8rem; border: 1px solid var(--line); border-radius: .4rem; color: var(--quiet);
}
.tiles b { display: block; font-size: 1.6rem; line-height: 1.2; color: var(--text); }
.warning {
  padding: .7rem 1rem; border: 2px solid var(--smoke-line); border-radius: .4rem;
  background: var(--smoke-back); color: var(--smoke); font-weight: 600; max-width: none;
}
.error, .problem { padding: .5rem .8rem; border-left: 4px solid; max-width: none; }
.error { border-color: var(--below); background: var(--below-back); }
.problem { border-color: var(--smoke-line); background: var(--smoke-back); }
.within, .below, .above { padding: .05rem .5rem; border-radius: .8rem; font-weight: 600; white-space: nowrap; }
.within { color: var(--within); background: var(--within-back); }
.below { color: var(--below); background: var(--below-back); }
.above { color: var(--above); background: var(--above-back); }
.tiles .within, .tiles .below, .tiles .above { border-radius: .4rem; font-weight: 400; }
.tiles .within, .tiles .within b { color: var(--within); }
.tiles .below, .tiles .below b { color: var(--below); }
.tiles .above, .tiles .above b { color: var(--above); }
.quiet { color: var(--quiet); }
.smoke { color: var(--smoke); font-weight: 600; }
.wrong { color: var(--below); font-weight: 600; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; }
th, td { padding: .35rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { color: var(--quiet); font-weight: 600; border-bottom-width: 2px; }
tbody th { font-weight: 400; }
.rows { table-layout: fixed; }
.rows th, .rows td { padding: .35rem .4rem; }
.rows thead th:nth-child(1) { width: 26%; }
.rows thead th:nth-child(2) { width: 9%; }
.rows thead th:nth-child(3) { width: 22%; }
.rows thead th:nth-child(7) { width: 10%; }
.rows thead th:nth-child(8) { width: 10%; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.card { margin: 1rem 0; padding: 1rem; border: 1px solid var(--line); border-radius: .5rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0; font-size: .92rem; }
.facts dt { color: var(--quiet); }
.facts dd { margin: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem; }
figure { margin: .5rem 0; min-width: 0; max-width: 34rem; }
figcaption { font-weight: 600; font-size: .92rem; }
.legend { list-style: none; margin: .2rem 0 0; padding: 0; font-size: .85rem; }
.legend svg { width: 2.2rem; height: .7rem; margin-right: .4rem; }
.chart { display: block; width: 100%; height: auto; }
.chart text { fill: var(--quiet); font-size: 13px; }
.grid { stroke: var(--line); }
.curve-0 { stroke: var(--curve-0); } .curve-1 { stroke: var(--curve-1); } .curve-2 { stroke: var(--curve-2); }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
polyline.curve-1 { stroke-dasharray: 8 3; } polyline.curve-2 { stroke-dasharray: 2 3; }
circle { stroke-width: 2; fill: var(--page); }
.published, polyline.published { stroke-dasharray: 1 5; stroke-linecap: round; stroke-width: 2; }
@media screen and (max-width: 50rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tr, th, td { display: block; }
  tbody { padding: .5rem 0; border-bottom: 1px solid var(--line); }
  tr + tr { margin-top: .4rem; }
  th, td, .rows th, .rows td { border: 0; padding: 0; }
  td.number { display: inline-block; margin-right: .8rem; }
  td.none { display: none; }
  td[data-label]::before { content: attr(data-label) ": "; color: var(--quiet); }
  .facts { grid-template-columns: 1fr; gap: 0; }
  .facts dd { margin-bottom: .4rem; }
  .chart text { font-size: 17px; }
}
"""
