// Colours of Okabe and Ito for the states; all other colours come from the theme, or else from the page.

export const STYLES = `
.nbc {
  --nbc-text: var(--jp-ui-font-color1, CanvasText);
  --nbc-quiet: var(--jp-ui-font-color2, color-mix(in srgb, CanvasText 70%, Canvas));
  --nbc-paper: var(--jp-layout-color1, Canvas);
  --nbc-shade: var(--jp-layout-color2, color-mix(in srgb, CanvasText 7%, Canvas));
  --nbc-edge: var(--jp-border-color2, color-mix(in srgb, CanvasText 22%, Canvas));
  --nbc-focus: var(--jp-brand-color1, Highlight);
  --nbc-blue: #0072b2; --nbc-sky: #56b4e9; --nbc-orange: #e69f00; --nbc-green: #009e73;
  --nbc-red: #d55e00; --nbc-pink: #cc79a7; --nbc-grey: #888;
  color: var(--nbc-text); background: var(--nbc-paper);
  font: var(--jp-ui-font-size1, 13px)/1.45 var(--jp-ui-font-family, system-ui, sans-serif);
  padding: 10px 12px; border: 1px solid var(--nbc-edge); border-radius: 6px; box-sizing: border-box; max-width: 1280px;
  overflow-wrap: anywhere;
}
/* Sliders and scroll bars, which the browser draws, in the brightness of the theme. */
[data-jp-theme-light="false"] .nbc { color-scheme: dark; }
.nbc *, .nbc *::before { box-sizing: border-box; }
.nbc [hidden] { display: none !important; }
.nbc p, .nbc h2, .nbc h3 { margin: 0; padding: 0; color: inherit; }
.nbc h2 { font-size: 1.25em; font-weight: 600; line-height: 1.3; }
.nbc h3 { font-size: 1em; font-weight: 600; }
.nbc bdi { unicode-bidi: isolate; }
.nbc-top { display: flex; gap: 12px; align-items: flex-start; }
.nbc-words { flex: 1; min-width: 0; }
.nbc-title, .nbc-goal, .nbc-best { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
.nbc-goal { color: var(--nbc-quiet); }
.nbc-buttons { display: flex; gap: 6px; }
.nbc-button { font: inherit; color: inherit; background: var(--nbc-shade); border: 1px solid var(--nbc-edge); border-radius: 4px; padding: 3px 12px; cursor: pointer; }
.nbc-button:hover { border-color: var(--nbc-quiet); }
.nbc-button[aria-pressed="true"] { background: var(--nbc-text); color: var(--nbc-paper); }
.nbc-stop { border-color: var(--nbc-red); }
.nbc button:focus-visible, .nbc select:focus-visible, .nbc svg:focus-visible, .nbc input:focus-visible, .nbc summary:focus-visible, .nbc [tabindex]:focus-visible { outline: 2px solid var(--nbc-focus); outline-offset: 1px; }
.nbc-progress { height: 6px; border-radius: 3px; background: var(--nbc-shade); margin: 8px 0 4px; overflow: hidden; border: 1px solid var(--nbc-edge); }
.nbc-progress > div { height: 100%; background: var(--nbc-blue); transition: width .2s; }
.nbc-counts { display: flex; flex-wrap: wrap; gap: 2px 14px; color: var(--nbc-quiet); font-variant-numeric: tabular-nums; margin: 2px 0 !important; }
.nbc-done { color: var(--nbc-text); font-weight: 600; }
.nbc-count, .nbc-state { white-space: nowrap; }
.nbc-icon { vertical-align: -1px; overflow: visible; }
.nbc-notes p { color: var(--nbc-quiet); }
.nbc-charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); gap: 14px; margin-top: 10px; }
.nbc-part { min-width: 0; }
.nbc-charts .nbc-part { display: flex; flex-direction: column; }
.nbc-charts .nbc-part > h3, .nbc-tabs { min-height: 27px; display: flex; align-items: center; border-bottom: 1px solid var(--nbc-edge); }
.nbc-tabs { gap: 2px; flex-wrap: wrap; }
/* Changing tabs does not move the table below; where nothing is drawn yet, there is nothing to keep room for. */
.nbc-charts:has(.nbc-chart) .nbc-tabs + div { min-height: 360px; }
.nbc-tab { font: inherit; color: var(--nbc-quiet); background: none; border: 0; border-bottom: 2px solid transparent; padding: 3px 10px; cursor: pointer; margin-bottom: -1px; }
.nbc-tab[aria-selected="true"] { color: var(--nbc-text); font-weight: 600; border-bottom-color: var(--nbc-blue); }
.nbc-tools { display: flex; flex-wrap: wrap; gap: 4px 14px; padding: 5px 0 2px; min-height: 32px; }
.nbc-wide .nbc-tools:empty { display: none; }
.nbc-choice { color: var(--nbc-quiet); min-width: 0; }
.nbc-select { font: inherit; color: var(--nbc-text); background: var(--nbc-paper); border: 1px solid var(--nbc-edge); border-radius: 3px; max-width: 180px; padding: 1px 3px; }
.nbc-place { min-height: 60px; }
.nbc-chart { display: block; max-width: 100%; overflow: visible; }
.nbc-chart text { fill: var(--nbc-quiet); font-size: 11px; font-family: inherit; }
.nbc-chart .nbc-axis { fill: var(--nbc-text); font-size: 12px; }
.nbc-grid line { stroke: var(--nbc-edge); stroke-width: 1; opacity: .55; shape-rendering: crispEdges; }
/* The borders of these themes are as bright as text. */
[data-jp-theme-name$="High Contrast"] .nbc-grid line { opacity: .3; }
.nbc-mark { stroke-width: 1.4; cursor: pointer; }
.nbc-chart .nbc-mark { stroke: var(--nbc-paper); stroke-width: .8; }
.nbc-chart .nbc-many { stroke-width: 0; }
.nbc-complete { fill: var(--nbc-blue); stroke: var(--nbc-blue); }
.nbc-stopped { fill: var(--nbc-sky); stroke: var(--nbc-sky); }
.nbc-infeasible { fill: var(--nbc-orange); stroke: var(--nbc-orange); }
.nbc .nbc-failed { fill: none; stroke: var(--nbc-pink); stroke-width: 2.4; }
.nbc-interrupted { fill: var(--nbc-grey); stroke: var(--nbc-grey); }
.nbc .nbc-running { fill: none; stroke: var(--nbc-text); stroke-width: 1.6; stroke-dasharray: 3 2; }
.nbc .nbc-run { fill-opacity: .45; stroke-width: 1; cursor: pointer; }
.nbc-front { fill: none; stroke: var(--nbc-red); stroke-width: 1.6; }
.nbc-ring { fill: none; stroke: var(--nbc-red); stroke-width: 1.6; pointer-events: none; }
.nbc-chosen { fill: none; stroke: var(--nbc-text); stroke-width: 2; pointer-events: none; }
.nbc-bound { stroke: var(--nbc-quiet); stroke-width: 1.2; stroke-dasharray: 5 4; }
.nbc-base { stroke: var(--nbc-green); stroke-width: 1.4; stroke-dasharray: 2 3; }
.nbc-star { fill: var(--nbc-green); stroke: var(--nbc-text); stroke-width: .8; }
.nbc-line { fill: none; stroke: color-mix(in srgb, var(--nbc-blue) 80%, var(--nbc-text)); stroke-width: 2; stroke-linejoin: round; }
.nbc-gain-dot { fill: color-mix(in srgb, var(--nbc-blue) 80%, var(--nbc-text)); }
.nbc .nbc-out { opacity: .14; }
.nbc-plot { position: relative; }
.nbc-plot > .nbc-chart { user-select: none; -webkit-user-select: none; }
.nbc-tip { position: absolute; z-index: 3; max-width: min(46%, 320px); padding: 4px 8px; pointer-events: none; white-space: pre-line; color: var(--nbc-text); background: var(--nbc-paper); border: 1px solid var(--nbc-quiet); border-radius: 4px; font-size: .92em; }
.nbc-unzoom { position: absolute; top: 2px; right: 2px; padding: 0 8px; }
.nbc-brush { fill: var(--nbc-sky); fill-opacity: .4; stroke: var(--nbc-quiet); pointer-events: none; }
.nbc-hit { fill: transparent; cursor: ns-resize; touch-action: none; }
.nbc-upright { stroke: var(--nbc-quiet); }
.nbc-sideways { overflow-x: auto; }
.nbc-sideways .nbc-chart { max-width: none; overflow: hidden; }
.nbc-thread { fill: none; stroke: color-mix(in srgb, var(--nbc-blue) 75%, var(--nbc-text)); stroke-opacity: .6; stroke-linejoin: round; }
.nbc .nbc-thread.nbc-out { stroke: var(--nbc-grey); stroke-opacity: 1; opacity: .25; }
.nbc-thread.nbc-best { stroke: var(--nbc-red); stroke-opacity: .9; stroke-width: 1.6; }
.nbc-thread.nbc-picked { stroke: var(--nbc-text); stroke-opacity: 1; stroke-width: 2.6; }
.nbc-end { fill: color-mix(in srgb, var(--nbc-blue) 75%, var(--nbc-text)); }
.nbc-end.nbc-picked { fill: var(--nbc-text); }
.nbc .nbc-line-tip { min-height: 1.45em; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.nbc-number-field { width: 8em; }
.nbc-chart .nbc-note { paint-order: stroke; stroke: var(--nbc-paper); stroke-width: 3px; stroke-linejoin: round; }
.nbc-rug { stroke: var(--nbc-edge); stroke-width: 1; }
.nbc-faint { fill: var(--nbc-grey); opacity: .7; }
.nbc-cursor { stroke: var(--nbc-text); stroke-width: 1; stroke-dasharray: 2 2; }
.nbc-band { fill: var(--nbc-sky); opacity: .35; }
.nbc-whisker { stroke: var(--nbc-sky); stroke-width: 3; }
.nbc-gain { fill: var(--nbc-red); opacity: .75; }
.nbc-now { stroke: var(--nbc-text); stroke-width: 1.2; }
.nbc-next { stroke: var(--nbc-red); stroke-width: 1.3; stroke-dasharray: 4 3; }
.nbc-sample { fill: #fff; stroke: #000; stroke-width: .8; opacity: .8; }
.nbc-mark-edge { fill: none; stroke: #000; stroke-width: 5; stroke-linejoin: round; stroke-linecap: round; }
.nbc-mark-most, .nbc-mark-through, .nbc-mark-now { fill: none; stroke: #fff; stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round; }
.nbc-whatif { padding-top: 6px; }
.nbc-sliders { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 3px 18px; max-height: 230px; overflow: auto; padding: 2px; }
.nbc-slider { display: flex; align-items: center; gap: 8px; color: var(--nbc-quiet); min-width: 0; min-height: 26px; }
.nbc-slider > bdi { flex: 0 0 34%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.nbc-slider input { flex: 1; min-width: 60px; margin: 0; accent-color: var(--nbc-blue); }
/* Beside a dark accent browsers draw the rest of the track white. */
.nbc-slider input { accent-color: light-dark(var(--nbc-blue), var(--nbc-sky)); }
.nbc-slider select { flex: 1; min-width: 0; max-width: none; }
.nbc-slider output { flex: 0 0 5.5em; color: var(--nbc-text); text-align: right; font-variant-numeric: tabular-nums; }
.nbc-results { margin-top: 8px; overflow-x: auto; }
.nbc .nbc-predicted { border-collapse: collapse; width: 100%; margin: 0; font-size: inherit; font-variant-numeric: tabular-nums; table-layout: auto; }
.nbc .nbc-predicted th, .nbc .nbc-predicted td { text-align: left; font-weight: 400; padding: 3px 10px 3px 2px; border: 0; border-bottom: 1px solid var(--nbc-edge); background: none; color: inherit; vertical-align: middle; max-width: 180px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.nbc .nbc-predicted thead th { color: var(--nbc-quiet); }
.nbc .nbc-predicted td:nth-child(2) { font-weight: 600; }
.nbc .nbc-predicted td:last-child { max-width: none; width: 40%; padding-right: 0; }
.nbc-level { margin-top: 32px; }
.nbc-strip .nbc-rug { stroke: var(--nbc-quiet); }
.nbc-strip { display: block; max-width: 100%; overflow: visible; }
.nbc .nbc-chance { margin: 6px 0 2px; }
.nbc-narrow .nbc-tools { align-items: center; gap: 4px 6px; }
.nbc-narrow .nbc-tools:empty { display: none; }
.nbc-button:disabled { opacity: .5; cursor: default; }
.nbc-chip { border-radius: 12px; border-color: var(--nbc-blue); }
.nbc-answer { align-self: center; min-height: 1.4em; }
.nbc-caption, .nbc-reason, .nbc-empty { color: var(--nbc-quiet); }
.nbc .nbc-empty { padding: 24px 8px; text-align: center; }
.nbc .nbc-detail { margin-top: 8px; padding: 5px 9px; background: var(--nbc-shade); border-radius: 4px; max-height: 17em; overflow: auto; }
.nbc-detail pre { max-height: 9em; }
.nbc-wide { margin-top: 10px; }
.nbc-scroll { max-height: 330px; overflow: auto; border: 1px solid var(--nbc-edge); border-radius: 4px; margin-top: 4px; position: relative; overflow-wrap: normal; }
.nbc .nbc-table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums; margin: 0; font-size: inherit; table-layout: auto; }
.nbc .nbc-table th, .nbc .nbc-table td { padding: 2px 9px; text-align: right; border-bottom: 1px solid var(--nbc-edge); color: inherit; background: none; max-width: 260px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; vertical-align: middle; }
.nbc .nbc-table th:first-child, .nbc .nbc-table td:first-child { width: 1%; }
.nbc .nbc-table .nbc-text { text-align: left; }
.nbc .nbc-table thead th { position: sticky; top: 0; background: var(--nbc-shade); z-index: 1; padding: 0; }
.nbc .nbc-table .nbc-pinned { position: sticky; z-index: 1; background: var(--nbc-paper); }
.nbc .nbc-table thead .nbc-pinned { z-index: 2; background: var(--nbc-shade); }
.nbc .nbc-table tr:hover .nbc-pinned { background: var(--nbc-shade); }
.nbc .nbc-table tr[aria-current] .nbc-pinned { background: color-mix(in srgb, var(--nbc-sky) 30%, var(--nbc-paper)); }
.nbc .nbc-table .nbc-dim td { color: color-mix(in srgb, var(--nbc-text) 62%, var(--nbc-paper)); }
.nbc-filters { align-items: center; }
.nbc-columns { position: relative; }
.nbc-columns > summary { list-style: none; }
.nbc-columns > summary::after { content: " ▾"; }
.nbc .nbc-column-list { position: absolute; z-index: 4; margin: 2px 0 0; padding: 6px 10px; list-style: none; max-height: 280px; min-width: 200px; overflow: auto; background: var(--nbc-paper); border: 1px solid var(--nbc-quiet); border-radius: 4px; }
.nbc-column-list li { display: flex; gap: 14px; justify-content: space-between; align-items: center; padding: 1px 0; }
.nbc-column-list .nbc-button { padding: 0 8px; }
.nbc-sort { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 4px 9px; cursor: pointer; max-width: 240px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.nbc-arrow { font-size: .7em; margin-left: 3px; display: inline-block; min-width: 1em; }
.nbc .nbc-table tbody tr { background: none; cursor: pointer; }
.nbc .nbc-table tbody tr:hover { background: var(--nbc-shade); }
.nbc .nbc-table tbody tr[aria-current] { background: color-mix(in srgb, var(--nbc-sky) 30%, var(--nbc-paper)); }
.nbc .nbc-is-front td:first-child { box-shadow: inset 3px 0 0 var(--nbc-red); }
.nbc-number, .nbc-toggle { font: inherit; color: inherit; background: none; border: 0; padding: 0 2px; cursor: pointer; }
/* As wide as both, so that the column has room for the longest number. */
.nbc-handles { display: flex; justify-content: flex-end; }
.nbc-toggle { min-width: 1.4em; margin-right: auto; }
.nbc .nbc-table .nbc-fold td { text-align: left; white-space: normal; max-width: none; cursor: default; background: var(--nbc-shade); }
.nbc pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 3px 0 6px; padding: 5px 8px; max-height: 260px; overflow: auto; font: 12px/1.4 var(--jp-code-font-family, ui-monospace, monospace); background: var(--nbc-paper); color: inherit; border: 1px solid var(--nbc-edge); border-radius: 3px; text-align: left; }
.nbc-code { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: center; margin: 4px 0; }
.nbc .nbc-code code { font: 12px/1.4 var(--jp-code-font-family, ui-monospace, monospace); background: none; color: inherit; padding: 0; overflow-wrap: anywhere; white-space: pre-wrap; flex: 1; min-width: 12em; }
.nbc-failure { font-weight: 600; }
.nbc-more { text-align: center; padding: 6px; }
.nbc-more:empty { display: none; }
.nbc .nbc-bars, .nbc .nbc-entries { border-collapse: collapse; margin: 8px 0; font-size: inherit; width: 100%; table-layout: auto; }
.nbc .nbc-entries { width: auto; }
.nbc .nbc-bars th, .nbc .nbc-bars td, .nbc .nbc-entries th, .nbc .nbc-entries td { text-align: left; padding: 3px 8px; font-weight: 400; background: none; border: 0; color: inherit; vertical-align: top; white-space: normal; max-width: none; }
.nbc .nbc-entries th { color: var(--nbc-quiet); overflow-wrap: normal; min-width: 6em; }
.nbc .nbc-track { width: 60%; }
.nbc-bars caption { text-align: left; padding: 0 8px 4px; color: var(--nbc-text); }
.nbc-bar { height: 11px; background: var(--nbc-blue); border-radius: 2px; min-width: 2px; margin-top: 4px; }
.nbc-column { fill: var(--nbc-blue); }
.nbc .nbc-trust { margin: 10px 8px 2px; }
.nbc-record { margin-top: 10px; }
.nbc-record summary { cursor: pointer; font-weight: 600; }
.nbc .nbc-foot { margin-top: 8px; font-size: .92em; }
.nbc .nbc-foot code { background: none; color: inherit; padding: 0; font-size: 1em; }
.nbc-refusal { font-weight: 600; margin-bottom: 6px !important; }
.nbc img { max-width: 100%; background: #fff; }
@media (prefers-contrast: more) {
  .nbc { --nbc-quiet: var(--nbc-text); --nbc-edge: var(--nbc-text); }
}
/* A system theme of high contrast replaces colours of text and background, but not those of pictures. */
@media (forced-colors: active) {
  .nbc { --nbc-text: CanvasText; --nbc-quiet: CanvasText; --nbc-paper: Canvas; --nbc-shade: Canvas; --nbc-edge: GrayText; --nbc-focus: Highlight; --nbc-blue: LinkText; }
  .nbc-progress > div, .nbc-bar { forced-color-adjust: none; }
  .nbc-tab { border-bottom-color: Canvas; }
  .nbc-tab[aria-selected="true"] { border-bottom-color: Highlight; }
  .nbc .nbc-table tbody tr[aria-current] { outline: 2px solid Highlight; outline-offset: -2px; }
  .nbc-button[aria-pressed="true"] { border-color: Highlight; }
}
@media (prefers-reduced-motion: reduce) { .nbc-progress > div { transition: none; } }
`;
