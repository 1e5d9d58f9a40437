/// The region's own page, and the headers that a page of another origin may read.
package enum EdgePage {
    package static let html: [UInt8] = Array(source.utf8)

    package static let exposedHeaders = [
        "Tideline-Region", "Tideline-State", "Tideline-Staleness-Ms", "Tideline-As-Of", "Tideline-Snapshot",
        "Tideline-Frontier",
    ]

    private static let source = #"""
        <!doctype html>
        <html lang="en">
        <head>
        <meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
        <title>Tideline region</title>
        <style>
        :root { color-scheme: light dark; --ink: #17202a; --paper: #fdfdfb; --line: #c9ced6; --soft: #55606e; --mark: #b3261e; --link: #0b57a4 }
        @media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --paper: #14181d; --line: #3a424d; --soft: #aab3bf; --mark: #ff8a80; --link: #8ab4f8 } }
        * { box-sizing: border-box }
        body { margin: 0 auto; max-width: 76rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
        h1 { font-size: 1.4rem; margin: 0 } h2 { font-size: 1.1rem }
        table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
        caption { text-align: left; color: var(--soft); padding: .3rem 0 }
        th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid var(--line) }
        .number { text-align: right }
        .scroll { overflow-x: auto }
        button { font: inherit; min-height: 2rem; padding: .1rem .5rem; color: var(--link); background: none; border: 1px solid var(--line); border-radius: .3rem; cursor: pointer }
        :focus-visible { outline: 3px solid var(--link); outline-offset: 2px }
        .flagged { color: var(--mark); font-weight: 600 }
        #detail { border: 1px solid var(--line); border-radius: .5rem; padding: 0 1rem 1rem; margin: 1rem 0 }
        </style>
        </head>
        <body>
        <header><h1>Tideline</h1><p id="state" role="status">Asking the region…</p></header>
        <main>
        <p><button id="pause" aria-pressed="false">Pause</button> <button id="only" aria-pressed="false">Flagged only</button></p>
        <section id="detail" aria-labelledby="title" hidden></section>
        <div class="scroll" role="region" aria-label="Recent events" tabindex="0">
        <table><caption>Recent events, newest first; times in UTC</caption>
        <thead><tr><th scope="col">Event</th><th scope="col">Time</th><th scope="col">Fields</th><th scope="col" class="number">Score (0–1)</th><th scope="col">Flagged</th></tr></thead>
        <tbody id="events"></tbody></table></div>
        </main>
        <script>
        "use strict";
        const at = id => document.getElementById(id);
        const make = (name, text, cls) => { const node = document.createElement(name); if (text !== undefined) node.textContent = text; if (cls) node.className = cls; return node; };
        let events = [], paused = false, only = false, dirty = true, opener = null;
        const ask = async path => { const answer = await fetch(path); const body = await answer.json(); if (!answer.ok) throw new Error(body.detail || body.title || answer.status); return body; };
        const fields = event => Object.entries(event.fields || {}).map(([key, value]) => key + " " + (value === null ? "–" : value)).join(" · ");
        function row(event) {
          const line = make("tr"), first = make("td"), button = make("button", event.id);
          button.onclick = () => open(event.id, button);
          first.append(button);
          line.append(first, make("td", event.time.slice(11, 23)), make("td", fields(event)), make("td", event.score === null ? "–" : event.score.toFixed(3), "number"), make("td", event.flagged ? "⚑ flagged" : "no", event.flagged ? "flagged" : ""));
          return line;
        }
        function draw() {
          // A table that has the keyboard's focus is not redrawn under it.
          if (!dirty || paused || at("events").contains(document.activeElement)) return;
          dirty = false;
          const shown = events.filter(event => !only || event.flagged).slice(0, 50);
          at("events").replaceChildren(...shown.map(row));
        }
        function table(caption, heads, rows) {
          const node = make("table"), head = make("tr");
          heads.forEach(text => { const cell = make("th", text); cell.scope = "col"; head.append(cell); });
          const top = make("thead"), body = make("tbody");
          top.append(head);
          rows.forEach(cells => { const line = make("tr"); cells.forEach(cell => { const box = make("td"); box.append(cell); line.append(box); }); body.append(line); });
          node.append(make("caption", caption), top, body);
          return node;
        }
        async function open(id, from) {
          opener = from || opener;
          const panel = at("detail"), title = make("h2", "Event " + id), close = make("button", "Close");
          title.id = "title"; title.tabIndex = -1; close.onclick = shut;
          panel.replaceChildren(title, close); panel.hidden = false; title.focus();
          try {
            const event = await ask("/v1/events/" + encodeURIComponent(id));
            panel.append(make("p", "Score " + (event.score === null ? "–" : event.score.toFixed(4)) + (event.flagged ? ", flagged" : ", not flagged") + " · " + fields(event)));
            panel.append(event.reasons.length ? table("Reasons: what moved the score most", ["Feature", "Value", "Contribution"], event.reasons.map(reason => [reason.feature, String(reason.value), reason.contribution.toFixed(3)])) : make("p", "No reasons: they are kept for flagged events."));
            const similar = await ask("/v1/similar?k=10&id=" + encodeURIComponent(id));
            const count = similar.neighbours.filter(other => other.flagged).length;
            panel.append(table("Nearest neighbours in this region; " + count + " of " + similar.neighbours.length + " are flagged", ["Event", "Distance", "Score", "Flagged", "Fields"], similar.neighbours.map(other => { const go = make("button", other.id); go.onclick = () => open(other.id); return [go, other.distance.toFixed(3), other.score === null ? "–" : other.score.toFixed(3), other.flagged ? "⚑ flagged" : "no", fields(other)]; })));
          } catch (error) { panel.append(make("p", "This could not be shown: " + error.message + ". Try again, or ask another region.")); }
        }
        function shut() { at("detail").hidden = true; if (opener && opener.isConnected) opener.focus(); else at("pause").focus(); }
        document.addEventListener("keydown", key => { if (key.key === "Escape" && !at("detail").hidden) shut(); });
        at("pause").onclick = () => { paused = !paused; at("pause").setAttribute("aria-pressed", paused); dirty = true; };
        at("only").onclick = () => { only = !only; at("only").setAttribute("aria-pressed", only); dirty = true; };
        let said = "";
        async function status() {
          let text;
          try { const now = await ask("/v1/status"); text = "Region " + now.region + ": " + now.state + (now.state === "fresh" ? "" : ", " + (now.stalenessMilliseconds / 1000).toFixed(0) + " s old"); }
          catch (error) { text = "The region does not answer; trying again."; }
          if (text !== said) { said = text; at("state").textContent = text; }
        }
        ask("/v1/events?limit=50").then(list => { events = list.events; dirty = true; }).catch(error => { at("state").textContent = error.message; });
        new EventSource("/v1/stream").addEventListener("event", message => { events.unshift(JSON.parse(message.data)); events.length = Math.min(events.length, 500); dirty = true; });
        setInterval(draw, 250); setInterval(status, 1000); status();
        </script>
        </body>
        </html>
        """#
}
