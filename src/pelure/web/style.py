"""How the web page of a drive looks: its style sheet, for large and small and dark screens, and its icon."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --line: #8883; --soft: #666; --link: #5b3fb0; --fill: #5b3fb012; }
@media (prefers-color-scheme: dark) { :root { --soft: #a0a0a0; --link: #b9a5ff; --fill: #b9a5ff1c; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .25rem 0 .75rem; overflow-wrap: anywhere; }
nav { color: var(--soft); overflow-wrap: anywhere; }
a { color: var(--link); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; color: var(--soft); font-weight: normal; font-size: .9rem; }
td, th { padding: .45rem .5rem; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { padding-left: 0; }
td:last-child { padding-right: 0; }
tbody tr:hover { background: var(--fill); }
td.name { overflow-wrap: anywhere; }
td.name > * { display: inline-block; padding-left: 1.6rem; position: relative; }
td.name > *::before { content: ""; position: absolute; left: .2rem; top: .32em; width: .75em; height: .95em;
  border: 1px solid var(--soft); border-radius: .1rem .35rem .1rem .1rem; }
td.name > .folder { font-weight: 600; }
td.name > .folder::before { top: .38em; width: 1em; height: .75em; border: 0; border-radius: .15rem;
  background: var(--link); }
td.name > .folder::after { content: ""; position: absolute; left: .2rem; top: .25em; width: .5em;
  height: .3em; border-radius: .15rem; background: var(--link); }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.number { color: var(--soft); }
.actions { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem 1rem; margin: 0 0 1rem;
  color: var(--soft); }
.button { border: 1px solid var(--link); border-radius: .4rem; padding: .35rem .8rem; }
.button:hover { background: var(--fill); text-decoration: none; }
.beside { margin-left: auto; display: flex; gap: 1rem; }
.preview img, .preview video { display: block; max-width: 100%; max-height: 75vh; margin: 0 auto; }
.preview iframe { width: 100%; height: 65vh; border: 1px solid var(--line); border-radius: .4rem; }
.preview audio { width: 100%; }
footer { color: var(--soft); font-size: .85rem; margin-top: 2rem; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  tr { display: grid; grid-template: "name name get" "size when get" / 4.5rem 1fr auto; align-items: center;
    padding: .5rem 0; border-bottom: 1px solid var(--line); }
  td { border: 0; padding: 0; }
  td.name { grid-area: name; }
  td.size { grid-area: size; padding-left: 1.6rem; text-align: left; font-size: .85rem; }
  td.when { grid-area: when; padding-left: 3rem; text-align: left; font-size: .85rem; }
  td.get { grid-area: get; padding: .3rem 0 .3rem .8rem; }
}
"""

ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="none" stroke-width="3">
<circle cx="16" cy="16" r="4.5" fill="#7d5fd3"/><path d="M16 7a9 9 0 1 0 9 9" stroke="#9b84e0"/>
<path d="M16 2a14 14 0 1 0 14 14" stroke="#b9a5ff"/></svg>
"""
