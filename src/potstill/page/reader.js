// Reads the answers inside the page: unpacks them, filters them, shows some at a time. What is chosen stands in the address
// (#answers&which=teacher-student&text=refund), so that a view can be sent to somebody.
(async () => {
  "use strict";
  const PAGE = 20;
  const home = document.getElementById("reader");
  if (!home) return;
  const form = home.querySelector("form"), list = home.querySelector("ol"), told = home.querySelector("output");
  const back = home.querySelector("[data-go='-1']"), on = home.querySelector("[data-go='1']");
  let data;
  try {
    const packed = Uint8Array.from(atob(document.getElementById("answers-data").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    data = JSON.parse(await new Response(stream).text());
  } catch (error) {
    document.getElementById("trouble").hidden = false; // the rows that are written out below stay
    return;
  }
  const { systems, fields, rows } = data;
  const fieldNames = Object.keys(fields);
  const place = Object.fromEntries(systems.map((name, number) => [name, number]));
  const right = (row, name) => row[4][place[name]][1];

  const ways = { all: ["all rows", () => true] };
  const pairs = [["teacher", "student"], ["control", "student"], ["baseline", "student"]];
  for (const [a, b] of pairs) {
    if (!(a in place) || !(b in place)) continue;
    ways[`${a}-${b}`] = [`${a} right, ${b} wrong`, (row) => right(row, a) === 1 && right(row, b) === 0];
    ways[`${b}-${a}`] = [`${b} right, ${a} wrong`, (row) => right(row, b) === 1 && right(row, a) === 0];
  }
  ways["all-right"] = ["all systems right", (row) => row[4].every((one) => one[1] === 1)];
  ways["all-wrong"] = ["all systems wrong", (row) => row[4].every((one) => one[1] === 0)];
  ways["no-gold"] = ["rows without gold", (row) => row[2] === null];
  ways["broken"] = ["an answer is cut or missing", (row) => row[4].some((one) => one[2])];
  for (const [key, [words, fits]] of Object.entries(ways)) {
    const count = rows.reduce((sum, row) => sum + (fits(row) ? 1 : 0), 0);
    if (count || key === "all") form.which.add(new Option(`${words} (${count.toLocaleString("en")})`, key));
  }
  for (const [number, name] of fieldNames.entries()) {
    const group = document.createElement("optgroup");
    group.label = name;
    fields[name].forEach((value, i) => group.append(new Option(`${name}: ${value}`, `${number}.${i}`)));
    form.slice.append(group);
  }
  form.slice.closest("label").hidden = fieldNames.length === 0;

  const texts = new Map(); // lower case, made when somebody searches first
  const textOf = (row) => {
    if (!texts.has(row)) {
      const parts = [...row[1].map((message) => message[1]), row[2] ?? "", ...row[4].map((one) => one[0])];
      texts.set(row, parts.join("\n").toLowerCase());
    }
    return texts.get(row);
  };

  let found = [], page = 0;

  function choose() {
    const fits = ways[form.which.value]?.[1] ?? ways.all[1];
    const wanted = form.text.value.trim().toLowerCase();
    const [field, value] = form.slice.value.split(".").map(Number);
    found = rows.filter((row) => fits(row)
      && (form.slice.value === "" || row[3][field] === value)
      && (wanted === "" || textOf(row).includes(wanted)));
    page = Math.min(page, Math.max(0, Math.ceil(found.length / PAGE) - 1));
    show();
  }

  function show() {
    const first = page * PAGE, some = found.slice(first, first + PAGE);
    list.replaceChildren(...some.map(drawn));
    list.start = first + 1;
    told.textContent = found.length === 0 ? "no row fits"
      : `${(first + 1).toLocaleString("en")} to ${(first + some.length).toLocaleString("en")} of ${found.length.toLocaleString("en")}`;
    back.disabled = page === 0;
    on.disabled = first + PAGE >= found.length;
  }

  function element(tag, css, text) {
    const made = document.createElement(tag);
    if (css) made.className = css;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function drawn(row) {
    const [id, messages, gold, , said] = row;
    const item = element("li"), prompt = element("div", "prompt");
    if (messages.length > 1) {
      const earlier = element("details");
      earlier.append(element("summary", "", messages.length === 2 ? "1 earlier message" : `${messages.length - 1} earlier messages`));
      for (const [role, content] of messages.slice(0, -1)) {
        const line = element("p");
        line.append(element("b", "", role), " ", element("span", "text", content));
        earlier.append(line);
      }
      prompt.append(earlier);
    }
    prompt.append(element("p", "text", messages.at(-1)[1]));
    const answers = element("dl");
    answers.append(answer("gold", gold ?? "none", null, "", gold === null));
    said.forEach(([text, isRight, why], number) => answers.append(answer(systems[number], text, isRight, why, text === "")));
    item.append(prompt, answers, element("small", "id", id));
    return item;
  }

  function answer(name, text, isRight, why, isEmpty) {
    const line = element("div", name), term = element("dt", "", name), body = element("dd", "text");
    if (isRight !== null) {
      const mark = element("span", isRight ? "right" : "wrong", isRight ? "\u2713" : "\u2717");
      mark.setAttribute("aria-label", isRight ? "right" : "wrong");
      term.append(" ", mark);
    }
    body.append(isEmpty ? element("em", "", name === "gold" ? "none" : "no answer") : text);
    if (why) body.append(" ", element("small", "", `(${why})`));
    line.append(term, body);
    return line;
  }

  function fromAddress() {
    const [name, ...rest] = location.hash.slice(1).split("&");
    if (name !== "answers") return false;
    const asked = new URLSearchParams(rest.join("&"));
    form.which.value = asked.get("which") in ways ? asked.get("which") : "all";
    if (form.which.selectedIndex < 0) form.which.value = "all";
    const [field, ...value] = (asked.get("slice") ?? "").split(":");
    const at = fieldNames.indexOf(field), inside = at < 0 ? -1 : fields[field].indexOf(value.join(":"));
    form.slice.value = inside < 0 ? "" : `${at}.${inside}`;
    form.text.value = asked.get("text") ?? "";
    page = Math.max(0, Number(asked.get("page") ?? 1) - 1) || 0;
    return true;
  }

  function toAddress() {
    const asked = new URLSearchParams();
    if (form.which.value !== "all") asked.set("which", form.which.value);
    if (form.slice.value !== "") {
      const [field, value] = form.slice.value.split(".").map(Number);
      asked.set("slice", `${fieldNames[field]}:${fields[fieldNames[field]][value]}`);
    }
    if (form.text.value.trim()) asked.set("text", form.text.value.trim());
    if (page) asked.set("page", page + 1);
    history.replaceState(null, "", `#answers${[...asked].length ? `&${asked}` : ""}`);
  }

  function changed() {
    page = 0;
    choose();
    toAddress();
  }
  let waiting;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.which.addEventListener("change", changed);
  form.slice.addEventListener("change", changed);
  form.text.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(changed, 150); });
  for (const button of [back, on]) {
    button.addEventListener("click", () => {
      page += Number(button.dataset.go);
      show();
      toAddress();
      form.scrollIntoView({ block: "nearest" });
    });
  }
  addEventListener("hashchange", () => { if (fromAddress()) choose(); });

  if (!fromAddress() && "teacher-student" in ways && form.which.querySelector("[value='teacher-student']")) {
    form.which.value = "teacher-student"; // what a sceptic looks for first
  }
  choose();
  home.hidden = false;
  document.getElementById("some-rows").hidden = true;
  if (location.hash.startsWith("#answers")) home.scrollIntoView();
})();
