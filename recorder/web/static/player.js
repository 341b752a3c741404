// The player: waves from ready-made peaks, keys for people who listen all day, one audio element.
// Nothing of the recording is fetched before play is pressed, so looking at a page is not a listen.
const root = document.querySelector("[data-player]");
if (root) start(root);

function start(root) {
  const audio = root.querySelector("audio");
  const playButton = root.querySelector("[data-play]");
  const clock = root.querySelector("[data-clock]");
  const status = root.querySelector("[data-status]");
  const canvases = [...root.querySelectorAll("canvas")];
  const speedButton = root.querySelector("[data-speed]");
  const silenceButton = root.querySelector("[data-silence]");
  const balance = root.querySelector("[data-balance]");
  const muted = JSON.parse(root.dataset.muted);
  let total = Number(root.dataset.duration) || 0;
  let peaks = null;
  let graph = null;
  let quiet = [];
  const off = canvases.map(() => false);
  const inFull = "inFull" in root.dataset;

  const format = (seconds) => {
    const whole = Math.max(0, Math.floor(seconds));
    return `${String(Math.floor(whole / 60)).padStart(2, "0")}:${String(whole % 60).padStart(2, "0")}`;
  };
  const say = (words) => { status.textContent = words; };

  function draw() {
    const styles = getComputedStyle(document.documentElement);
    const done = total ? audio.currentTime / total : 0;
    canvases.forEach((canvas, channel) => {
      const ratio = window.devicePixelRatio || 1;
      const width = canvas.clientWidth, height = canvas.clientHeight;
      if (canvas.width !== Math.round(width * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
      }
      const g = canvas.getContext("2d");
      g.setTransform(ratio, 0, 0, ratio, 0, 0);
      g.clearRect(0, 0, width, height);
      const middle = height / 2;
      g.fillStyle = styles.getPropertyValue("--line");
      g.fillRect(0, middle - 0.5, width, 1);
      const data = peaks && (peaks.channels[channel] || peaks.channels[0]);
      if (data) {
        const count = data.length / 2;
        let loudest = 1e-6;
        for (const value of data) loudest = Math.max(loudest, Math.abs(value));
        const colour = styles.getPropertyValue(canvas.dataset.party === "agent" ? "--agent" : "--customer");
        const bars = Math.floor(width / 3);
        for (let bar = 0; bar < bars; bar++) {
          const from = Math.floor((bar * count) / bars), to = Math.max(from + 1, Math.floor(((bar + 1) * count) / bars));
          let low = 0, high = 0;
          for (let i = from; i < to && i < count; i++) {
            low = Math.min(low, data[2 * i]);
            high = Math.max(high, data[2 * i + 1]);
          }
          const up = (high / loudest) * (middle - 2), down = (-low / loudest) * (middle - 2);
          g.globalAlpha = off[channel] ? 0.15 : bar / bars <= done ? 1 : 0.45;
          g.fillStyle = colour;
          g.fillRect(bar * 3, middle - up, 2, Math.max(1, up + down));
        }
        g.globalAlpha = 1;
      }
      if (total) for (const span of muted) {
        const x = (span.from / total) * width, w = Math.max(3, ((span.to - span.from) / total) * width);
        g.save();
        g.beginPath(); g.rect(x, 0, w, height); g.clip();
        // Who hears the muted part sees its wave under the hatching; for everybody else there is nothing.
        if (!inFull) { g.fillStyle = styles.getPropertyValue("--panel"); g.fillRect(x, 0, w, height); }
        g.strokeStyle = styles.getPropertyValue("--hatch"); g.lineWidth = 2;
        for (let k = -height; k < w; k += 7) { g.beginPath(); g.moveTo(x + k, height); g.lineTo(x + k + height, 0); g.stroke(); }
        if (span.why && channel === 0) {
          g.font = "11px system-ui, sans-serif";
          const wide = g.measureText(span.why).width + 8;
          if (wide < w) {
            g.fillStyle = styles.getPropertyValue("--panel"); g.fillRect(x + (w - wide) / 2, middle - 9, wide, 18);
            g.fillStyle = styles.getPropertyValue("--text"); g.fillText(span.why, x + (w - wide) / 2 + 4, middle + 4);
          }
        }
        g.restore();
      }
      g.fillStyle = styles.getPropertyValue("--text");
      g.fillRect(Math.min(width - 1, done * width), 0, 1, height);
    });
    const length = total ? format(total) : "–";
    clock.textContent = `${format(audio.currentTime)} / ${length}`;
    playButton.textContent = audio.paused ? "Play" : "Pause";
    const slider = root.querySelector("[data-position]");
    slider.max = String(total || 0);
    slider.value = String(audio.currentTime);
    slider.setAttribute("aria-valuetext", `${format(audio.currentTime)} of ${length}`);
  }

  const seek = (seconds) => {
    audio.currentTime = Math.min(Math.max(0, seconds), Math.max(0, (total || 0) - 0.05));
    draw();
  };
  // Stretches of at least a second in which no channel is louder than a fortieth of its loudest moment.
  function findQuiet() {
    const loud = peaks.channels.map((data) => data.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-6) / 40);
    const count = Math.floor(peaks.channels[0].length / 2), step = total / count;
    const found = [];
    let from = null;
    for (let i = 0; i <= count; i++) {
      const still = i < count && peaks.channels.every((data, c) => Math.max(-data[2 * i], data[2 * i + 1]) < loud[c]);
      if (still && from === null) from = i;
      if (!still && from !== null) {
        if ((i - from) * step >= 1) found.push({ from: from * step + 0.25, to: i * step - 0.25 });
        from = null;
      }
    }
    return found;
  }
  function skipQuiet() {
    if (silenceButton.getAttribute("aria-pressed") !== "true") return;
    const now = audio.currentTime;
    const here = quiet.find((span) => now >= span.from && now < span.to - 0.1);
    if (here) audio.currentTime = here.to;
  }
  const toggle = async () => {
    if (!audio.paused) { audio.pause(); return; }
    wire();
    try { await audio.play(); say(""); } catch { await explain(); }
  };
  // The element tells nothing of a refusal; the problem document does, in words.
  async function explain() {
    try {
      const answer = await fetch(audio.currentSrc || audio.src, { headers: { Range: "bytes=0-0" } });
      if (answer.ok) { say("This browser cannot play the recording."); return; }
      const problem = await answer.json();
      say(problem.detail || problem.title);
    } catch { say("The service does not answer. Try again in a moment."); }
  }
  // Each channel through its own gain, made on the first play: browsers allow it only after a gesture.
  function wire() {
    if (graph || canvases.length < 2 || !window.AudioContext) return;
    const context = new AudioContext();
    const source = context.createMediaElementSource(audio);
    const split = context.createChannelSplitter(2), merge = context.createChannelMerger(2);
    const gains = [context.createGain(), context.createGain()];
    source.connect(split);
    gains.forEach((gain, i) => {
      split.connect(gain, i);
      gain.connect(merge, 0, 0);
      gain.connect(merge, 0, 1);
    });
    merge.connect(context.destination);
    graph = { context, gains };
    apply();
  }
  function apply() {
    const lean = balance ? Number(balance.value) : 0;
    const share = [Math.min(1, 1 - lean), Math.min(1, 1 + lean)];
    if (graph) graph.gains.forEach((gain, i) => { gain.gain.value = off[i] ? 0 : share[i]; });
    if (balance) balance.setAttribute("aria-valuetext", lean === 0 ? "even" : `${Math.round(Math.abs(lean) * 100)} % to channel ${lean < 0 ? 1 : 2}`);
    root.querySelectorAll("[data-channel]").forEach((b) => b.setAttribute("aria-pressed", String(off[Number(b.dataset.channel)])));
    draw();
  }
  const speed = (step) => {
    const rates = [0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3];
    const at = Math.max(0, rates.indexOf(audio.playbackRate));
    audio.playbackRate = rates[Math.min(rates.length - 1, Math.max(0, at + step))];
    tellSpeed();
  };
  function tellSpeed() {
    speedButton.textContent = `${audio.playbackRate}×`;
    speedButton.setAttribute("aria-label", `Speed ${audio.playbackRate}×`);
  }

  playButton.addEventListener("click", toggle);
  root.querySelectorAll("[data-skip]").forEach((b) => b.addEventListener("click", () => seek(audio.currentTime + Number(b.dataset.skip))));
  root.querySelector("[data-loop]").addEventListener("click", (e) => { audio.loop = !audio.loop; e.target.setAttribute("aria-pressed", String(audio.loop)); });
  speedButton.addEventListener("click", () => { if (audio.playbackRate >= 3) { audio.playbackRate = 0.5; tellSpeed(); } else speed(1); });
  silenceButton.addEventListener("click", () => silenceButton.setAttribute("aria-pressed", String(silenceButton.getAttribute("aria-pressed") !== "true")));
  balance?.addEventListener("input", apply);
  root.querySelectorAll("[data-channel]").forEach((b) => b.addEventListener("click", () => { const i = Number(b.dataset.channel); off[i] = !off[i]; apply(); }));
  root.querySelector("[data-position]").addEventListener("input", (e) => seek(Number(e.target.value)));
  canvases.forEach((c) => c.addEventListener("click", (e) => seek((e.offsetX / c.clientWidth) * total)));
  for (const name of ["timeupdate", "play", "pause", "ended", "seeked"]) audio.addEventListener(name, draw);
  audio.addEventListener("loadedmetadata", () => { if (Number.isFinite(audio.duration)) total = audio.duration; if (peaks) quiet = findQuiet(); draw(); });
  audio.addEventListener("waiting", () => say("Loading…"));
  audio.addEventListener("playing", () => { say(""); smooth(); });
  audio.addEventListener("error", () => { if (audio.error) explain(); });
  function smooth() { if (!audio.paused) { skipQuiet(); draw(); requestAnimationFrame(smooth); } }

  document.addEventListener("keydown", (e) => {
    if (e.target.closest("input:not([data-position]), select, textarea") || e.ctrlKey || e.metaKey || e.altKey) return;
    const onButton = e.target.closest("button, a");
    const keys = {
      " ": () => { if (!onButton) toggle(); else return false; },
      ArrowLeft: () => seek(audio.currentTime - 5), ArrowRight: () => seek(audio.currentTime + 5),
      ",": () => seek(audio.currentTime - 1), ".": () => seek(audio.currentTime + 1),
      "[": () => speed(-1), "]": () => speed(1),
      1: () => { if (off.length > 1) { off[0] = !off[0]; apply(); } }, 2: () => { if (off.length > 1) { off[1] = !off[1]; apply(); } },
    };
    if (keys[e.key] && keys[e.key]() !== false) e.preventDefault();
  });
  new ResizeObserver(draw).observe(root);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
  if (root.dataset.peaks) {
    fetch(root.dataset.peaks).then(async (answer) => {
      if (!answer.ok) { const problem = await answer.json(); say(problem.detail || problem.title); return; }
      peaks = await answer.json();
      if (total) quiet = findQuiet();
      root.dataset.drawn = "";
      draw();
    }).catch(() => say("The wave could not be loaded; the call can still be played."));
  }
}
