// Styles of what stands in JupyterLab's own places: sidebar, tabs, form.

export const LAB_STYLES = `
.nbc-widget { overflow: auto; color: var(--jp-ui-font-color1); background: var(--jp-layout-color1); font: var(--jp-ui-font-size1)/1.45 var(--jp-ui-font-family); }
.nbc-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.nbc-side { padding: 8px; overflow-wrap: anywhere; }
.nbc-side p { margin: 0; }
.nbc-side-tools { display: flex; gap: 6px; margin-bottom: 6px; }
.nbc-side-search { flex: 1; min-width: 0; font: inherit; color: inherit; background: var(--jp-layout-color1); border: 1px solid var(--jp-border-color1); border-radius: 3px; padding: 3px 6px; }
.nbc-side-list { list-style: none; margin: 0; padding: 0; }
.nbc-side-item { padding: 6px 2px 8px; border-bottom: 1px solid var(--jp-border-color2); }
.nbc-side-head { display: flex; gap: 6px; align-items: baseline; }
.nbc-side-head input { margin: 0; align-self: center; }
.nbc-side-name { flex: 1; min-width: 0; font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: 1px 2px; text-align: start; cursor: pointer; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
.nbc-side-name:hover:enabled { text-decoration: underline; }
.nbc-side-name:disabled { cursor: default; }
.nbc-side-state, .nbc-side-path, .nbc-side-note { color: var(--jp-ui-font-color2); }
.nbc-side-state { white-space: nowrap; font-variant-numeric: tabular-nums; }
.nbc-side-path { font-size: .92em; }
.nbc-side-note > span { display: block; margin-top: 4px; }
.nbc-side-bar { height: 5px; margin: 3px 0; border: 1px solid var(--jp-border-color2); border-radius: 3px; overflow: hidden; background: var(--jp-layout-color2); }
.nbc-side-bar > div { height: 100%; background: #0072b2; }
.nbc-side-running .nbc-side-bar > div { background: #009e73; }
.nbc-side-value { margin-inline-end: 10px; font-variant-numeric: tabular-nums; }
.nbc-side-actions { display: flex; flex-wrap: wrap; gap: 4px; margin-top: 4px; }
.nbc-side-button { font: inherit; font-size: .92em; color: inherit; background: var(--jp-layout-color2); border: 1px solid var(--jp-border-color1); border-radius: 3px; padding: 1px 7px; cursor: pointer; }
.nbc-side-button:disabled { color: var(--jp-ui-font-color3); cursor: default; }
.nbc-side button:focus-visible, .nbc-side input:focus-visible, .nbc-form :focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: 1px; }
.nbc-tabpage { padding: 10px; }
.nbc-tabpage > .nbc, .nbc-tabpage > div > .nbc { margin: 0 auto; }
.nbc-tab-chooser { margin-bottom: 8px; }
.nbc .nbc-plain thead th { padding: 4px 9px; font-weight: 600; }
.nbc .nbc-plain tbody tr { cursor: default; }
.nbc-tall { max-height: none; }
.nbc .nbc-legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 6px 0; padding: 0; }
.nbc .nbc-legend svg { vertical-align: middle; }
.nbc-running { min-height: 45vh; max-height: 62vh; overflow: auto; background: var(--jp-layout-color1); border-bottom: 1px solid var(--jp-border-color1); }
.nbc-running-head.nbc { display: flex; gap: 8px; align-items: center; border: 0; border-radius: 0; max-width: none; position: sticky; top: 0; z-index: 2; }
.nbc-running-head p { flex: 1; }
.nbc-form { width: min(560px, 80vw); padding: 2px; }
/* The dialog of JupyterLab wraps every select in an element of its own. */
.nbc-form .jp-select-wrapper { flex: 1; margin: 0; min-width: 0; }
.nbc-form .nbc-form-second .jp-select-wrapper { flex: none; }
.nbc-form select, .nbc-form select.jp-mod-styled { width: 100%; height: 30px; padding: 0 26px 0 8px; line-height: 28px; text-overflow: ellipsis; }
.nbc-form input[type=number].jp-mod-styled, .nbc-form input[type=text].jp-mod-styled { height: 30px; }
.nbc-form input[type=checkbox] { height: auto; margin: 0 4px 0 0; vertical-align: middle; }
.nbc-dialog { overflow: auto; min-height: min(25em, 60vh); }
.nbc-form-row { display: flex; gap: 8px; margin: 6px 0; align-items: center; flex-wrap: wrap; }
.nbc-form-row > label { display: flex; gap: 8px; align-items: center; flex: 1; min-width: 0; }
.nbc-form-row > label > span:first-child { flex: 0 0 9em; }
.nbc-form-row > .nbc-form-second { flex: 0 0 auto; }
.nbc-form-row > .nbc-form-second input { width: 6em; flex: none; }
.nbc-form-row > .nbc-form-second > span:first-child { flex: none; }
.nbc-form select, .nbc-form input[type=number], .nbc-form input[type=text] { font: inherit; color: var(--jp-ui-font-color1); background: var(--jp-layout-color1); border: 1px solid var(--jp-border-color1); border-radius: 3px; padding: 4px 6px; min-width: 0; }
.nbc-form-select, .nbc-form-number, .nbc-form-typed { flex: 1; }
.nbc-form-typed { flex-basis: 100%; font-family: var(--jp-code-font-family) !important; }
.nbc-form-tries { border: 1px solid var(--jp-border-color2); border-radius: 3px; margin: 8px 0; padding: 4px 10px 8px; display: grid; grid-template-columns: repeat(auto-fit, minmax(14em, 1fr)); gap: 4px 12px; }
.nbc-form-problem { color: var(--jp-error-color1); min-height: 1.4em; margin: 6px 0 0; overflow-wrap: anywhere; }
`;
