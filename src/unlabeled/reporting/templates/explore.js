// The page of `unlabeled explore`: search by similarity, a map, and a list to label. No libraries, nothing is fetched.
"use strict";
const explore = (() => {
  const NEAREST = 60, POINT = 65535, THUMBNAIL = 44, SHEETS = 64, DRAWN = 700;
  const by = id => document.getElementById(id);
  const view = { scale: 1, x: 0, y: 0, whole: true };  // map units 0..1 to pixels: x * scale + view.x
  const selected = new Set(), labels = new Map();  // rows; rows to the user's labels
  const sheets = new Map();                        // pictures of sheets by number, loaded when first drawn
  let data, points, vectors, inverse;              // of all samples, in the page's order
  let query = null, answer = [], found = null;     // row or rows searched for; rows that answer; rows that words match
  let palette = [], dirty = false, hover = -1, loop = null;

  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const count = number => number.toLocaleString("en");
  const label = row => labels.get(row) ?? (data.labels[row] < 0 ? "" : data.classes[data.labels[row]]);
  const name = row => data.texts ? data.texts[row] : data.paths[row].split(/[/\\]/).pop();
  const x = row => points[2 * row] / POINT, y = row => 1 - points[2 * row + 1] / POINT;
  const element = (tag, set = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), set);
    made.append(...children);
    return made;
  };

  // ---- search -------------------------------------------------------------------------------------------------
  // Cosines of all samples with a vector; the lengths of the others are divided out, its own does not matter.
  function cosines(vector) {
    const dims = data.dims, scores = new Float32Array(data.paths.length);
    const length = Math.hypot(...vector), own = length > 0 ? 1 / length : 0;
    for (let row = 0; row < scores.length; row++) scores[row] = product(vector, vectors, row * dims, dims) * inverse[row] * own;
    return scores;
  }

  // Sums of products of small whole numbers, four at a time: below 2^31, so that the engine needs no fractions.
  function product(vector, others, at, dims) {
    let a = 0, b = 0, c = 0, d = 0, k = 0;
    for (; k < dims - 3; k += 4, at += 4) {
      a = (a + Math.imul(vector[k], others[at])) | 0;
      b = (b + Math.imul(vector[k + 1], others[at + 1])) | 0;
      c = (c + Math.imul(vector[k + 2], others[at + 2])) | 0;
      d = (d + Math.imul(vector[k + 3], others[at + 3])) | 0;
    }
    for (; k < dims; k++, at++) a = (a + Math.imul(vector[k], others[at])) | 0;
    return a + b + c + d;
  }

  // Rows of the largest scores, the largest first; of equal ones the first row.
  function largest(scores, most, skip) {
    const rows = [], best = [];
    for (let row = 0; row < scores.length; row++) {
      const score = scores[row];
      if ((rows.length === most && score <= best[most - 1]) || skip.has(row)) continue;
      let place = rows.length < most ? rows.length : most - 1;
      while (place > 0 && best[place - 1] < score) { rows[place] = rows[place - 1]; best[place] = best[place - 1]; place--; }
      rows[place] = row; best[place] = score;
    }
    return rows.map((row, place) => ({ row, score: best[place] }));
  }

  function vectorOf(rows) {
    if (rows.length === 1) return Int32Array.from(vectors.subarray(rows[0] * data.dims, (rows[0] + 1) * data.dims));
    const mean = new Float64Array(data.dims);
    for (const row of rows)
      for (let k = 0; k < data.dims; k++) mean[k] += vectors[row * data.dims + k] * inverse[row];
    const most = mean.reduce((high, value) => Math.max(high, Math.abs(value)), 1e-12);
    return Int32Array.from(mean, value => Math.round(value / most * 4095));
  }

  function nearest(rows, most = NEAREST) {
    return largest(cosines(vectorOf(rows)), most, new Set(rows));
  }

  function search(rows) {
    const began = performance.now();
    answer = nearest(rows);
    const took = performance.now() - began;
    query = rows;
    if (rows.length === 1) history.replaceState(null, "", `#like=${rows[0]}`);
    showQuery(took);
    showResults(answer.map(one => one.row), answer.map(one => one.score.toFixed(2)));
    mark();
    return took;
  }

  // ---- results ------------------------------------------------------------------------------------------------
  function thumbnail(row, side) {
    const { side: own, columns } = data, place = row % (columns * columns);
    const shown = element("span", { className: `thumb${own < 48 ? " hard" : ""}` }), times = side / own;
    shown.style.cssText = `width:${side}px;height:${side}px;background-image:url(sheets/${Math.floor(row / columns ** 2)}.webp);` +
      `background-size:${columns * side}px auto;background-position:-${(place % columns) * own * times}px -${Math.floor(place / columns) * own * times}px`;
    return shown;
  }

  function player(row) {
    const source = data.sounds === "copies" ? `sounds/${row}.ogg` : "file://" + encodeURI(data.root + data.paths[row]);
    return element("audio", { controls: true, preload: "none", src: source });
  }

  function showQuery(took) {
    const box = by("query"), words = element("div");
    box.replaceChildren();
    if (query.length === 1 && data.side) box.append(thumbnail(query[0], 64));
    const title = query.length === 1 ? name(query[0]) : `${count(query.length)} selected samples`;
    words.append(element("b", { textContent: title }));
    const facts = query.length === 1 && label(query[0]) ? `${label(query[0])} · ` : "";
    words.append(element("p", { id: "answer", textContent:
      `${facts}${answer.length} nearest of ${count(data.paths.length)} in ${took.toFixed(1)} ms` }));
    if (query.length === 1 && data.sounds) words.append(player(query[0]));
    box.append(words);
    box.dataset.ms = took;
  }

  function showResults(rows, notes = []) {
    const box = by("results");
    box.classList.toggle("texts", Boolean(data.texts));
    box.replaceChildren(...rows.map((row, place) => tile(row, notes[place])));
    box.scrollTop = 0;
  }

  function tile(row, note = "") {
    const made = element("button", { className: "tile", title: data.paths[row] });
    made.dataset.row = row;
    made.append(data.texts ? element("span", { className: "words", textContent: data.texts[row] }) : thumbnail(row, 64));
    made.append(element("b", { textContent: label(row) || (data.texts ? "" : name(row)) }), ` ${note}`);
    made.append(element("span", { className: "plus", textContent: selected.has(row) ? "✓" : "+", title: "Select" }));
    made.classList.toggle("chosen", selected.has(row));
    made.addEventListener("click", event => {
      if (event.shiftKey || event.target.classList.contains("plus")) toggle(row);
      else search([row]);
    });
    made.addEventListener("pointerenter", () => { hover = row; mark(); });
    made.addEventListener("pointerleave", () => { hover = -1; mark(); });
    return made;
  }

  // ---- words --------------------------------------------------------------------------------------------------
  function findWords() {
    const words = by("words").value.trim().toLowerCase();
    found = null;
    if (words) {
      found = [];
      for (let row = 0; row < data.paths.length; row++) {
        const text = data.texts ? data.texts[row] : "";
        if (data.paths[row].toLowerCase().includes(words) || label(row).toLowerCase().includes(words) ||
          text.toLowerCase().includes(words)) found.push(row);
      }
      showResults(found.slice(0, 4 * NEAREST));
    } else if (answer.length) showResults(answer.map(one => one.row), answer.map(one => one.score.toFixed(2)));
    by("matches").textContent = found ? `${count(found.length)} found` : "";
    mark();
  }

  // ---- selection and labels -----------------------------------------------------------------------------------
  function toggle(row) { select([row], !selected.has(row)); }

  function select(rows, on = true) {
    for (const row of rows) on ? selected.add(row) : selected.delete(row);
    for (const made of document.querySelectorAll(".tile")) {
      const chosen = selected.has(Number(made.dataset.row));
      made.classList.toggle("chosen", chosen);
      made.querySelector(".plus").textContent = chosen ? "✓" : "+";
    }
    refresh();
  }

  function refresh() {
    const none = selected.size === 0;
    by("selected").textContent = count(selected.size);
    by("labelled").textContent = count(labels.size);
    for (const id of ["similar", "set", "clear"]) by(id).disabled = none;
    by("forget").disabled = labels.size === 0;
    by("export").disabled = none && labels.size === 0;
    const names = [...new Set([...data.classes, ...labels.values()])];
    by("names").replaceChildren(...names.map(value => element("option", { value })));
    mark();
  }

  const storage = () => `unlabeled-explore-${data.key}`;
  function remember() {
    try { localStorage.setItem(storage(), JSON.stringify([...labels])); } catch { /* private window: not remembered */ }
  }
  function recall() {
    try { for (const [row, text] of JSON.parse(localStorage.getItem(storage()) ?? "[]")) labels.set(row, text); } catch { labels.clear(); }
  }

  // Rows of a table that the commands read as data: samples labelled here, and selected ones still without a label.
  function table() {
    const quoted = text => /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    const rows = [...new Set([...labels.keys(), ...selected])].sort((a, b) => a - b);
    const lines = rows.map(row => [data.texts ? data.texts[row] : data.root + data.paths[row], labels.get(row) ?? ""]);
    return [[data.texts ? "text" : "path", "label"], ...lines].map(line => line.map(quoted).join(",")).join("\n") + "\n";
  }

  function save() {
    const address = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    element("a", { href: address, download: "labels.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }

  // ---- map ----------------------------------------------------------------------------------------------------
  const canvas = id => by(id).getContext("2d");
  function resize() {
    const { clientWidth: width, clientHeight: height } = by("map"), ratio = devicePixelRatio || 1;
    for (const id of ["points", "marks"]) {
      by(id).width = width * ratio; by(id).height = height * ratio;
      canvas(id).setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    view.whole ? whole() : draw();
  }

  function whole() {
    view.whole = true;
    const { clientWidth: width, clientHeight: height } = by("map");
    let [left, right, top, bottom] = [1, 0, 1, 0];
    for (let row = 0; row < data.paths.length; row++) {
      left = Math.min(left, x(row)); right = Math.max(right, x(row));
      top = Math.min(top, y(row)); bottom = Math.max(bottom, y(row));
    }
    const across = Math.max(right - left, 1e-3), down = Math.max(bottom - top, 1e-3);
    view.scale = Math.max(1, Math.min((width - 90) / across, (height - 150) / down));
    view.x = width / 2 - view.scale * (left + right) / 2; view.y = height / 2 - view.scale * (top + bottom) / 2;
    draw();
  }

  function draw() {
    if (dirty) return;
    dirty = true;
    requestAnimationFrame(() => { dirty = false; drawPoints(); mark(); });
  }

  const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // What samples are coloured by: the commonest groups have a colour each, all others are grey.
  function groups() {
    const choice = by("colour").value, rows = data.paths.length;
    const of = { class: row => data.labels[row], split: row => data.split[row], none: () => -1,
      mine: row => labels.get(row) ?? -1 }[choice];
    const name = { class: group => data.classes[group], split: group => data.splits[group] }[choice] ?? String;
    const counts = new Map();
    for (let row = 0; row < rows; row++) if (of(row) !== -1) counts.set(of(row), (counts.get(of(row)) ?? 0) + 1);
    const common = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)).slice(0, palette.length);
    const place = new Map(common.map((group, number) => [group, number]));
    return { names: common.map(name), others: counts.size - common.length, of: row => place.get(of(row)) ?? -1 };
  }

  function drawPoints() {
    const area = by("map"), pen = canvas("points"), { clientWidth: width, clientHeight: height } = area;
    pen.clearRect(0, 0, width, height);
    const { names, others, of } = groups(), rows = data.paths.length;
    const size = Math.max(1.6, Math.min(7, 1.6 * Math.sqrt(view.scale / 500) * Math.sqrt(20000 / Math.max(rows, 2000))));
    const inside = [], shades = Array.from({ length: palette.length + 1 }, () => []);
    for (let row = 0; row < rows; row++) {
      const left = x(row) * view.scale + view.x, top = y(row) * view.scale + view.y;
      if (left < -40 || top < -40 || left > width + 40 || top > height + 40) continue;
      inside.push(row);
      const group = of(row);
      shades[group < 0 ? palette.length : group].push(left, top);
    }
    shades.forEach((places, shade) => {
      pen.fillStyle = shade < palette.length ? palette[shade] : style("--c0");
      pen.globalAlpha = shade < palette.length ? 0.75 : 0.45;
      for (let k = 0; k < places.length; k += 2) pen.fillRect(places[k] - size / 2, places[k + 1] - size / 2, size, size);
    });
    pen.globalAlpha = 1;
    if (data.side && by("pictures").getAttribute("aria-pressed") === "true") drawPictures(pen, inside, of);
    const entry = (text, colour) => {
      const dot = element("i");
      dot.style.background = colour;
      return element("li", {}, dot, text);
    };
    by("legend").replaceChildren(...names.map((text, place) => entry(text, palette[place])),
      ...(others > 0 ? [entry(`${count(others)} others`, style("--c0"))] : []));
  }

  // Pictures where they do not overlap, in the order of the page, whose neighbours share sheets; not from too many sheets.
  function drawPictures(pen, rows, of) {
    const cells = new Map(), used = new Set(), { side, columns } = data, shown = THUMBNAIL - 8;
    const step = Math.max(1, Math.floor(rows.length / (4 * DRAWN)));
    const free = (left, top, column, line) => {
      for (let across = -1; across < 2; across++)
        for (let down = -1; down < 2; down++) {
          const other = cells.get(`${column + across},${line + down}`);
          if (other && Math.abs(other[0] - left) < THUMBNAIL && Math.abs(other[1] - top) < THUMBNAIL) return false;
        }
      return true;
    };
    let drawn = 0;
    pen.imageSmoothingEnabled = side >= 36;
    for (let at = 0; at < rows.length && drawn < DRAWN; at += step) {
      const row = rows[at], left = x(row) * view.scale + view.x, top = y(row) * view.scale + view.y;
      const column = Math.floor((left - view.x) / THUMBNAIL), line = Math.floor((top - view.y) / THUMBNAIL);
      const number = Math.floor(row / columns ** 2), place = row % columns ** 2;
      if ((!used.has(number) && used.size >= SHEETS) || !free(left, top, column, line)) continue;
      cells.set(`${column},${line}`, [left, top]); used.add(number); drawn++;
      const sheet = sheetOf(number), group = of(row);
      if (!sheet.complete || !sheet.naturalWidth) continue;
      pen.fillStyle = group < 0 ? style("--rule") : palette[group];
      pen.beginPath(); pen.roundRect(left - shown / 2 - 2, top - shown / 2 - 2, shown + 4, shown + 4, 5); pen.fill();
      pen.fillStyle = style("--panel");
      pen.fillRect(left - shown / 2, top - shown / 2, shown, shown);
      pen.drawImage(sheet, (place % columns) * side, Math.floor(place / columns) * side, side, side,
        left - shown / 2, top - shown / 2, shown, shown);
    }
  }

  function sheetOf(number) {
    if (!sheets.has(number)) {
      const sheet = new Image();
      sheet.onload = draw;
      sheet.src = `sheets/${number}.webp`;
      sheets.set(number, sheet);
      if (sheets.size > 4 * SHEETS) sheets.delete(sheets.keys().next().value);
    }
    return sheets.get(number);
  }

  // Rings around what was searched for, found and selected, and the lasso: drawn on their own, as they change often.
  function mark() {
    if (!data || !points) return;
    const area = by("map"), pen = canvas("marks");
    pen.clearRect(0, 0, area.clientWidth, area.clientHeight);
    const ring = (rows, colour, radius, width) => {
      pen.strokeStyle = colour; pen.lineWidth = width;
      pen.beginPath();
      for (const row of rows) {
        const left = x(row) * view.scale + view.x, top = y(row) * view.scale + view.y;
        pen.moveTo(left + radius, top); pen.arc(left, top, radius, 0, 7);
      }
      pen.stroke();
    };
    if (found) ring(found.slice(0, 5000), style("--s2"), 4, 1.5);
    ring(answer.map(one => one.row), style("--s0"), 5, 1.5);
    ring(selected, style("--s1"), 4.5, 2);
    if (query) ring(query.slice(0, 100), style("--ink"), 8, 2.5);
    if (hover >= 0) ring([hover], style("--ink"), 7, 2);
    if (loop?.length > 1) {
      pen.beginPath();
      loop.forEach(([left, top], place) => place ? pen.lineTo(left, top) : pen.moveTo(left, top));
      pen.closePath();
      pen.fillStyle = style("--s1"); pen.globalAlpha = 0.12; pen.fill(); pen.globalAlpha = 1;
      pen.strokeStyle = style("--s1"); pen.lineWidth = 1.5; pen.stroke();
    }
  }

  function rowAt(left, top, reach = 14) {
    let best = -1, least = reach * reach;
    for (let row = 0; row < data.paths.length; row++) {
      const across = x(row) * view.scale + view.x - left, down = y(row) * view.scale + view.y - top;
      const far = across * across + down * down;
      if (far < least) { least = far; best = row; }
    }
    return best;
  }

  // Rows inside a closed line of pixels, by the parity of its crossings to the right.
  function within(line) {
    const rows = [];
    for (let row = 0; row < data.paths.length; row++) {
      const left = x(row) * view.scale + view.x, top = y(row) * view.scale + view.y;
      let inside = false;
      for (let k = 0, before = line.length - 1; k < line.length; before = k++) {
        const [ax, ay] = line[k], [bx, by_] = line[before];
        if ((ay > top) !== (by_ > top) && left < (bx - ax) * (top - ay) / (by_ - ay) + ax) inside = !inside;
      }
      if (inside) rows.push(row);
    }
    return rows;
  }

  function tip(row, left, top) {
    const box = by("tip"), area = by("map");
    box.hidden = row < 0;
    if (row < 0) return;
    box.replaceChildren(...(data.side ? [thumbnail(row, 96)] : []));
    if (label(row)) box.append(element("b", { textContent: label(row) }));
    box.append(data.texts ? data.texts[row] : data.paths[row]);
    const right = left > area.clientWidth / 2, below = top > area.clientHeight / 2;
    box.style.left = `${right ? left - box.offsetWidth - 16 : left + 16}px`;
    box.style.top = `${below ? top - box.offsetHeight - 16 : top + 16}px`;
  }

  function listen() {
    const area = by("map");
    let drag = null;
    const place = event => {
      const box = area.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    area.addEventListener("pointerdown", event => {
      if (event.target.closest(".tools") || event.button) return;
      try { area.setPointerCapture(event.pointerId); } catch { /* an event that a script made */ }
      const [left, top] = place(event);
      if (event.shiftKey || by("lasso").getAttribute("aria-pressed") === "true") loop = [[left, top]];
      else drag = { left, top, x: view.x, y: view.y, moved: false };
      tip(-1);
    });
    area.addEventListener("pointermove", event => {
      const [left, top] = place(event);
      if (loop) { loop.push([left, top]); mark(); return; }
      if (drag) {
        drag.moved ||= Math.hypot(left - drag.left, top - drag.top) > 4;
        if (!drag.moved) return;
        view.x = drag.x + left - drag.left; view.y = drag.y + top - drag.top;
        view.whole = false;
        area.classList.add("drags");
        draw();
        return;
      }
      hover = event.target.closest(".tools") ? -1 : rowAt(left, top);
      tip(hover, left, top); mark();
    });
    area.addEventListener("pointerup", event => {
      area.classList.remove("drags");
      if (loop) {
        const rows = loop.length > 2 ? within(loop) : [];
        loop = null;
        select(rows);
        if (rows.length) showResults(rows.slice(0, 4 * NEAREST));
      } else if (drag && !drag.moved) {
        const row = rowAt(...place(event));
        if (row >= 0) search([row]);
      }
      drag = null;
    });
    area.addEventListener("pointerleave", () => { hover = -1; tip(-1); mark(); });
    area.addEventListener("wheel", event => {
      event.preventDefault();
      view.whole = false;
      const [left, top] = place(event), times = Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015));
      const scale = Math.max(100, Math.min(2e5, view.scale * times)), ratio = scale / view.scale;
      view.x = left - (left - view.x) * ratio; view.y = top - (top - view.y) * ratio; view.scale = scale;
      tip(-1); draw();
    }, { passive: false });
    const press = (id, act) => by(id).addEventListener("click", () => {
      const on = by(id).getAttribute("aria-pressed") !== "true";
      by(id).setAttribute("aria-pressed", on);
      act(on);
    });
    press("lasso", on => area.classList.toggle("draws", on));
    press("pictures", draw);
    by("whole").addEventListener("click", whole);
    by("colour").addEventListener("change", draw);
    by("words").addEventListener("input", findWords);
    by("find").addEventListener("submit", event => { event.preventDefault(); findWords(); });
    by("similar").addEventListener("click", () => search([...selected]));
    by("clear").addEventListener("click", () => select([...selected], false));
    by("forget").addEventListener("click", () => { labels.clear(); remember(); refresh(); draw(); });
    by("label").addEventListener("submit", event => {
      event.preventDefault();
      const text = by("name").value.trim();
      for (const row of selected) text ? labels.set(row, text) : labels.delete(row);
      remember();
      by("colour").value = "mine";
      select([...selected], false); draw();
    });
    by("export").addEventListener("click", save);
    addEventListener("keydown", event => {
      if (event.key === "Escape") { loop = null; select([...selected], false); }
    });
    addEventListener("resize", resize);
    addEventListener("hashchange", fromAddress);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { shades(); draw(); });
  }

  const shades = () => { palette = Array.from({ length: 10 }, (_, place) => style(`--k${place}`)); };

  function fromAddress() {
    const row = Number(/^#like=(\d+)$/.exec(location.hash)?.[1] ?? 0);
    if (row < data.paths.length) search([row]);
  }

  function start() {
    shades(); recall(); listen();
    const some = (value, textContent) => by("colour").append(element("option", { value, textContent }));
    if (data.classes.length) some("class", "by class");
    if (data.split) some("split", "by split");
    some("mine", "by my labels"); some("none", "none");
    by("pictures").hidden = !data.side;
    by("about").textContent = `${count(data.paths.length)} ${data.unit} · ${data.dims} bytes each, ` +
      `${Math.round(100 * data.recall)} % of the 10 nearest found · map: ${data.map}`;
    if (!data.files && !data.texts)
      by("export").title = "These samples are not files of their own, so the list names places inside of an archive or table";
    resize(); refresh(); fromAddress();
    document.body.dataset.ready = "yes";
  }

  return {
    samples(value) {
      data = value;
      const raw = bytes(data.points);
      points = new Uint16Array(raw.buffer);
    },
    vectors(text) {
      vectors = new Int8Array(bytes(text).buffer);
      inverse = new Float32Array(data.paths.length);
      for (let row = 0, at = 0; row < inverse.length; row++) {
        let sum = 0;
        for (let k = 0; k < data.dims; k++, at++) sum += vectors[at] * vectors[at];
        inverse[row] = sum ? 1 / Math.sqrt(sum) : 0;
      }
      start();
    },
    nearest, search, select, table, within, view,
  };
})();
