//! Progress while a run goes on: a bar at a terminal, a line now and then in a log, JSON lines for
//! programs; and the memory that the process takes.

use std::{
    io::{self, IsTerminal},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle as BarStyle};
use serde_json::{Value, json};

use super::{
    LOGGED,
    counts::{Count, Counts},
    document::encodings,
    download::Download,
    layout,
    screen::{self, HINT, WARNING},
    summary::{self, Stored},
};
use crate::{
    memory::Memory,
    plan::RunPlan,
    run::{Event, Events},
    text::shown,
};

/// Columns of the bar, and of what stands between it and the text.
const BAR: usize = 24;
const BESIDE_BAR: usize = 8;
/// How often memory is looked at, and the bar is drawn.
const TICK: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often a JSON line is written.
const JSON_EVERY: Duration = Duration::from_secs(1);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressStyle {
    /// Not at all.
    Silent,
    /// For people: a bar at a terminal, lines elsewhere.
    Human,
    /// JSON lines.
    Json,
}

/// The memory that a run took, where the system tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most that was resident, mapped files included.
    pub peak_resident: Option<u64>,
    /// The most memory of its own that was seen, looking ten times a second.
    pub peak_anonymous: Option<u64>,
}

/// Shows what [`Events`] tell, until dropped.
pub struct Progress {
    state: Arc<State>,
    ticker: Option<JoinHandle<()>>,
}

struct State {
    style: ProgressStyle,
    began: Instant,
    /// When the weights began to be worked on.
    work_began: Mutex<Instant>,
    download: Download,
    stop: AtomicBool,
    counts: Counts,
    peak_anonymous: AtomicU64,
    /// Where tokens go through layers, and not weights into files: how often each has to.
    passes: AtomicU64,
    step: Mutex<String>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts showing progress.
    #[must_use]
    pub fn start(style: ProgressStyle) -> Self {
        let bar = (style == ProgressStyle::Human && io::stderr().is_terminal()).then(new_bar);
        let state = Arc::new(State {
            style,
            began: Instant::now(),
            work_began: Mutex::new(Instant::now()),
            download: Download::default(),
            stop: AtomicBool::new(false),
            counts: Counts::default(),
            peak_anonymous: AtomicU64::new(0),
            passes: AtomicU64::new(0),
            step: Mutex::new("starting".into()),
            bar,
        });
        let ticker = thread::Builder::new().name("progress".into()).spawn({
            let state = Arc::clone(&state);
            move || state.tick_until_stopped()
        });
        // Without the thread there is no progress to see, and the work goes on.
        Self { state, ticker: ticker.ok() }
    }

    /// Where a run tells what happens.
    #[must_use]
    pub fn events(&self) -> Arc<dyn Events> {
        Arc::<State>::clone(&self.state) as _
    }

    /// Stops showing progress, and tells the memory that was used.
    #[must_use]
    pub fn finish(mut self) -> Usage {
        self.stop();
        let memory = Memory::now();
        let peak_anonymous = self.state.peak_anonymous.load(Ordering::Relaxed).max(memory.anonymous);
        let known = |bytes: u64| (bytes > 0).then_some(bytes);
        Usage { peak_resident: known(memory.peak_resident), peak_anonymous: known(peak_anonymous) }
    }

    fn stop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            ticker.thread().unpark();
            let _ = ticker.join();
        }
        if let Some(bar) = &self.state.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A plan that was chosen: its size, and what part of the weights has which type.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn chosen(plan: &RunPlan) -> (String, Value) {
    let stored: Vec<_> = plan.tensors().map(Stored::planned).collect();
    let all: u64 = stored.iter().map(|tensor| tensor.elements).sum();
    let parts = summary::encodings(&stored).into_iter().filter(|(_, sum)| sum.elements > 0);
    let parts = parts.map(|(encoding, sum)| {
        format!("{encoding} for {:.0} % of the weights", sum.elements as f64 * 100.0 / all.max(1) as f64)
    });
    let parts: Vec<_> = parts.collect();
    let (size, bits) = (ByteSize(plan.file_bytes), plan.bits_per_weight());
    let text = format!("chosen: {size}, {bits:.2} bits per weight: {}", parts.join(", "));
    let document = json!({
        "event": "chosen",
        "file_size": plan.file_bytes,
        "bits_per_weight": bits,
        "encodings": encodings(&stored),
    });
    (text, document)
}

/// What is told of a run.
fn of_run(run: &str, text: &str) -> String {
    if run.is_empty() { text.to_owned() } else { format!("{run}: {text}") }
}

fn new_bar() -> ProgressBar {
    let bar = screen::BARS.add(ProgressBar::new(1));
    // The template is a constant; were it wrong, the default one would do.
    if let Ok(style) = BarStyle::with_template(&format!("{{bar:{BAR}}} {{percent:>3}}%  {{msg}}")) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar
}

impl Events for State {
    fn emit(&self, event: Event<'_>) {
        match event {
            Event::Of { run, event } => self.tell(run, *event),
            event => self.tell("", event),
        }
    }
}

impl State {
    /// Takes an event of a run; without a name it is the only one, or what is so of all.
    fn tell(&self, run: &str, event: Event<'_>) {
        match event {
            Event::Of { run, event } => self.tell(run, *event),
            Event::Progress { weights } => self.counts.change(run, |count| count.done += weights),
            Event::Downloading { from, bytes, files, missing } => {
                self.download.begin(bytes, files as u64);
                let files_text = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
                let text = format!("downloading {} of weights in {files_text} from {from}", ByteSize(missing));
                let document = json!({"event": "downloading", "from": from, "bytes": missing, "files": files});
                self.say("", HINT, "note", &text, document);
            }
            Event::Kept { bytes } => self.download.kept(bytes),
            Event::Arrived { bytes } => self.download.arrived(bytes),
            Event::Lost { bytes } => self.download.lost(bytes),
            Event::FileDownloaded { name } => {
                tracing::info!("{name} is in the cache");
                self.download.file_done();
            }
            Event::AllDownloaded => {
                if self.style == ProgressStyle::Json {
                    screen::eprint_line(&self.download.json().to_string());
                }
                self.download.end();
            }
            Event::Started { weights, units } => {
                self.begin(run, Count { weights, units: units as u64, ..Count::default() });
            }
            Event::Surveying { weights, units, done, weights_done } => {
                let text = match done {
                    0 => "measuring first what each tensor needs".to_owned(),
                    done => format!("resuming: {done} of {units} units are measured"),
                };
                let (units, done) = (units as u64, done as u64);
                let inherited = weights_done;
                self.begin(run, Count { weights, done: inherited, inherited, units, committed: 0 });
                let document = json!({"event": "surveying", "units": units, "units_done": done, "weights": weights});
                self.say(run, HINT, "note", &text, document);
            }
            Event::Chosen(plan) => {
                let (text, document) = chosen(plan);
                self.say(run, HINT, "note", &text, document);
            }
            Event::Evaluating { tokens, layers, scored } => {
                *self.work_began.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                let weights = tokens.saturating_mul(layers).saturating_add(scored);
                self.counts.change(run, |count| count.weights = weights);
                self.passes.store(layers.max(1), Ordering::Relaxed);
            }
            Event::Computed { tokens } => self.counts.change(run, |count| count.done += tokens),
            Event::Resuming { done, of, weights, next } => {
                let committed = done as u64;
                self.counts.change(run, |count| {
                    *count = Count { done: weights, inherited: weights, committed, ..*count };
                });
                let next = next.unwrap_or("the last check");
                let text = format!("resuming: {done} of {of} units are done, going on with {next}");
                let document = json!({"event": "resuming", "units_done": done, "units": of, "next": next});
                self.say(run, HINT, "note", &text, document);
            }
            Event::Discarding { reason } => {
                let text = format!("an earlier run's unfinished work is thrown away: {reason}");
                self.say(run, WARNING, "warning", &text, json!({"event": "discarding", "reason": reason}));
            }
            Event::Warning(text) => {
                self.say(run, WARNING, "warning", text, json!({"event": "warning", "message": text}));
            }
            Event::UnitStarted { name } => {
                let name = of_run(run, name);
                tracing::debug!("{name} is begun");
                *self.step() = name;
            }
            Event::UnitCommitted { name } => {
                tracing::info!("{} is done and on the disk", of_run(run, name));
                self.counts.change(run, |count| count.committed += 1);
            }
            Event::Checking => {
                tracing::info!("{}", of_run(run, "the output is read back"));
                *self.step() = of_run(run, "checking");
            }
            Event::Published => {
                tracing::info!("{}", of_run(run, "the output is in its place"));
                "done".clone_into(&mut self.step());
            }
        }
    }

    /// Work of a run begins.
    fn begin(&self, run: &str, count: Count) {
        *self.work_began.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.counts.change(run, |known| *known = count);
        if !run.is_empty() {
            // What others have done until now was done in the time before.
            self.counts.rebase();
        }
    }

    fn say(&self, run: &str, style: anstyle::Style, label: &str, text: &str, mut document: Value) {
        let text = of_run(run, text);
        if !run.is_empty() {
            document["run"] = run.into();
        }
        tracing::warn!(target: LOGGED, "{text}");
        match self.style {
            ProgressStyle::Silent => {}
            ProgressStyle::Human => screen::eprint_labelled(style, label, &shown(&text)),
            ProgressStyle::Json => screen::eprint_line(&document.to_string()),
        }
    }

    fn step(&self) -> MutexGuard<'_, String> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick_until_stopped(&self) {
        let every = if self.style == ProgressStyle::Json { JSON_EVERY } else { LINE_EVERY };
        let mut last_line = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let memory = Memory::now();
            self.peak_anonymous.fetch_max(memory.anonymous, Ordering::Relaxed);
            if let Some(bar) = &self.bar {
                let (done, whole) = self.position();
                bar.set_length(whole.max(1));
                bar.set_position(done);
                let room = layout::screen_width().map_or(usize::MAX, |width| width.saturating_sub(BAR + BESIDE_BAR));
                bar.set_message(layout::as_many_as_fit(&self.human(memory), room));
            } else if last_line.elapsed() >= every {
                last_line = Instant::now();
                match self.style {
                    ProgressStyle::Silent => {}
                    ProgressStyle::Human => {
                        screen::eprint_line(&format!("{:3.0}%  {}", self.percent(), self.human(memory).join(", ")));
                    }
                    ProgressStyle::Json => screen::eprint_line(&self.json(memory).to_string()),
                }
            }
            thread::park_timeout(TICK);
        }
    }

    /// What is done, of how much: bytes of a download, weights, or tokens through layers.
    fn position(&self) -> (u64, u64) {
        if self.download.is_active() {
            return self.download.position();
        }
        let Count { done, weights, .. } = self.counts.sum();
        (done, weights)
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn percent(&self) -> f64 {
        if self.download.is_active() {
            return self.download.percent();
        }
        let Count { done, weights, .. } = self.counts.sum();
        let done = done.min(weights);
        if weights == 0 { 0.0 } else { done as f64 * 100.0 / weights as f64 }
    }

    /// Weights per second of this run, and what is left at that speed.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn speed(&self) -> (f64, Option<Duration>) {
        let Count { weights, done, inherited, .. } = self.counts.sum();
        let here = done.saturating_sub(inherited) as f64;
        let began = *self.work_began.lock().unwrap_or_else(PoisonError::into_inner);
        let speed = here / began.elapsed().as_secs_f64().max(1e-3);
        let left = weights.saturating_sub(done) as f64;
        let eta = (speed > 0.0 && left > 0.0).then(|| Duration::try_from_secs_f64(left / speed).ok()).flatten();
        (speed, eta)
    }

    /// Tokens that went through everything, if that is what is done.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn tokens_per_second(&self, speed: f64) -> Option<f64> {
        let passes = self.passes.load(Ordering::Relaxed);
        (passes > 0).then(|| speed / passes as f64)
    }

    /// What is going on, in parts of which the first say most.
    fn human(&self, memory: Memory) -> Vec<String> {
        if self.download.is_active() {
            return vec![self.download.human()];
        }
        let (speed, eta) = self.speed();
        let eta = eta.map(|eta| format!("{} left", HumanDuration(eta)));
        let speed = match self.tokens_per_second(speed) {
            Some(speed) => format!("{speed:.0} tokens/s"),
            None => format!("{:.1} M weights/s", speed / 1e6),
        };
        let peak = ByteSize(self.peak_anonymous.load(Ordering::Relaxed));
        let memory = format!("memory {} (peak {peak})", ByteSize(memory.anonymous));
        [Some(self.step().clone()), eta, Some(memory), Some(speed)].into_iter().flatten().collect()
    }

    fn json(&self, memory: Memory) -> Value {
        if self.download.is_active() {
            return self.download.json();
        }
        let (speed, eta) = self.speed();
        if let Some(tokens_per_second) = self.tokens_per_second(speed) {
            return json!({
                "event": "progress",
                "step": *self.step(),
                "percent": self.percent(),
                "tokens_per_second": tokens_per_second,
                "eta_seconds": eta.map(|eta| eta.as_secs_f64()),
                "elapsed_seconds": self.began.elapsed().as_secs_f64(),
                "memory": self.memory(memory),
            });
        }
        let Count { weights, done, units, committed, .. } = self.counts.sum();
        json!({
            "event": "progress",
            "step": *self.step(),
            "units_done": committed,
            "units": units,
            "weights_done": done,
            "weights": weights,
            "percent": self.percent(),
            "weights_per_second": speed,
            "eta_seconds": eta.map(|eta| eta.as_secs_f64()),
            "elapsed_seconds": self.began.elapsed().as_secs_f64(),
            "memory": self.memory(memory),
        })
    }

    fn memory(&self, now: Memory) -> Value {
        json!({
            "resident": now.resident,
            "anonymous": now.anonymous,
            "peak_resident": now.peak_resident,
            "peak_anonymous": self.peak_anonymous.load(Ordering::Relaxed),
        })
    }
}
