//! All output of `cargo dev`, so that progress bars, colours and closed pipes are handled in one place.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// All progress bars on the screen. Steps may run in parallel, and lines are printed above the bars.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Prints a line to stdout.
pub fn line(text: impl Display) {
    BARS.suspend(|| print(format_args!("{text}\n")));
}

/// Prints text to stdout without adding a line end.
pub fn print(text: impl Display) {
    let mut out = std::io::stdout().lock();
    if write!(out, "{text}").and_then(|()| out.flush()).is_err() {
        // The reader has closed the pipe (`| head`), so no further output is needed.
        std::process::exit(0);
    }
}

/// Prints an error and its causes to stderr.
pub fn error(err: &anyhow::Error) {
    let mut out = std::io::stderr().lock();
    // An error cannot be reported when stderr itself is closed.
    let _ = writeln!(out, "{} {err:#}", paint("31;1", "error:"));
}

/// Prints a remark to stderr, separate from the regular output.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Text in bold, where the terminal can show it.
pub fn bold(text: impl Display) -> String {
    paint("1", text)
}

/// Text in green, where the terminal can show it.
pub fn green(text: impl Display) -> String {
    paint("32", text)
}

/// Text in yellow, where the terminal can show it.
pub fn yellow(text: impl Display) -> String {
    paint("33", text)
}

/// Dimmed text, where the terminal can show it.
pub fn dim(text: impl Display) -> String {
    paint("2", text)
}

/// Returns whether stdout is a terminal: bars and colours for terminals, plain lines for files and CI.
pub fn interactive() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("CI").is_none()
}

fn paint(code: &str, text: impl Display) -> String {
    if interactive() && std::env::var_os("NO_COLOR").is_none() {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_string()
    }
}

/// Seconds with one decimal, as shown next to steps and events.
pub fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// One step of a longer task: a spinner while it runs, one line when it is done.
pub struct Step {
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Step {
    /// Begins a step.
    pub fn begin(what: impl Display) -> Self {
        let bar = interactive().then(|| {
            let bar = BARS.add(ProgressBar::new_spinner().with_message(what.to_string()));
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed:.dim}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, started: Instant::now() }
    }

    /// Ends a step and prints its result.
    pub fn done(self, what: impl Display) {
        let time = seconds(self.started.elapsed());
        self.clear();
        line(format_args!("{} {what} {}", green("✓"), dim(time)));
    }

    /// Shows the current state of the step.
    pub fn update(&self, what: impl Display) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_string());
        }
    }

    /// Shows how much of the step is done, as a bar if the total is known.
    pub fn progress(&self, done: u64, of: u64) {
        let Some(bar) = &self.bar else { return };
        if bar.length() != Some(of) {
            bar.set_length(of);
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {msg} {wide_bar} {bytes}/{total_bytes}")
            {
                bar.set_style(style);
            }
        }
        bar.set_position(done);
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.clear();
    }
}
