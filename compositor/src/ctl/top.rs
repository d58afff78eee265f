//! `primeway top`: what is on which plane, live, in a terminal.
//!
//! It owns the screen and the keys. The event stream says when to look again at once, and a clock when to look at the
//! numbers; what is shown comes from the same answers as `explain`, `planes` and `timeline`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event as TerminalEvent, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::client::{EventStream, ask, everything, print};
use super::explain::{ExplainReport, Explanation, Way};
use super::planes::{OutputPlanes, PlanesReport};
use super::timeline::TimelineReport;
use super::{Request, show};
use crate::cli::To;

/// Between two looks at the numbers.
const INTERVAL: Duration = Duration::from_secs(1);
/// The least time between two looks, however much happens.
const LEAST: Duration = Duration::from_millis(100);
/// How long a key may wait.
const KEYS: Duration = Duration::from_millis(50);

/// What there is to see.
#[derive(Debug, Serialize)]
pub struct Look {
    /// When it was asked for.
    #[serde(skip)]
    at: Option<Instant>,
    /// The surfaces.
    pub explain: ExplainReport,
    /// The planes.
    pub planes: PlanesReport,
    /// The outputs' frames.
    pub timeline: TimelineReport,
}

impl Look {
    fn now(socket: Option<&PathBuf>) -> anyhow::Result<Self> {
        let get = |request: &Request| ask(socket.cloned(), request);
        let mut timeline: TimelineReport = serde_json::from_value(get(&Request::Timeline)?)?;
        timeline.outputs.iter_mut().for_each(|output| output.changes.clear());
        Ok(Self {
            at: Some(Instant::now()),
            explain: serde_json::from_value(everything(socket.cloned())?)?,
            planes: serde_json::from_value(get(&Request::Planes)?)?,
            timeline,
        })
    }

    /// Seconds since an earlier look.
    fn since(&self, before: &Self) -> Option<f64> {
        let passed = self.at?.checked_duration_since(before.at?)?.as_secs_f64();
        (passed > 0.0).then_some(passed)
    }
}

/// What is on the screen: the last look, and the one that rates are counted from.
#[derive(Debug)]
pub struct View {
    now: Look,
    before: Option<Look>,
}

impl View {
    /// Frames a second of an output.
    fn output_rate(&self, name: &str) -> Option<f64> {
        let before = self.before.as_ref()?;
        let frames = |look: &Look| look.timeline.outputs.iter().find(|o| o.output == name).map(|o| o.frames);
        let new = frames(&self.now)?.checked_sub(frames(before)?)?;
        Some(new as f64 / self.now.since(before)?)
    }

    /// New frames a second of a surface, as long as it stays where it is.
    fn surface_rate(&self, surface: &Explanation) -> Option<f64> {
        let before = self.before.as_ref()?;
        let same = |e: &&Explanation| e.who.is(&surface.who) && e.output == surface.output;
        let old = before.explain.surfaces.iter().find(same)?;
        let stays = old.verdict.since_unix_ms.zip(surface.verdict.since_unix_ms);
        // The two clocks' difference is measured anew for each answer.
        stays.filter(|(a, b)| a.abs_diff(*b) < 20)?;
        let new = surface.verdict.frames.checked_sub(old.verdict.frames)?;
        Some(new as f64 / self.now.since(before)?)
    }
}

/// Shows it until a key or primeway ends it.
///
/// # Errors
/// Without a terminal, without a primeway, and when primeway ends.
pub fn run(to: &To) -> anyhow::Result<u8> {
    if to.json {
        return lines(to);
    }
    if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        bail!("`primeway top` needs a terminal; `primeway top --json` and `primeway events` do not");
    }
    let changes = listen(to)?;
    let first = Look::now(to.socket.as_ref())?;
    in_terminal(|terminal| watch(terminal, first, &changes, to)).map(|()| 0)
}

/// Has the terminal to itself for as long as `shows` runs, and gives it back as it was, also after a panic: the hook of
/// `try_init` sees to that.
fn in_terminal(
    shows: impl FnOnce(&mut ratatui::DefaultTerminal) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init().context("cannot take the terminal")?;
    let shown = shows(&mut terminal);
    ratatui::restore();
    shown
}

/// A line of JSON each second.
fn lines(to: &To) -> anyhow::Result<u8> {
    loop {
        let look = Look::now(to.socket.as_ref())?;
        if !print(&(serde_json::to_string(&look)? + "\n"))? {
            return Ok(0);
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Hears the event stream; its end closes the channel.
fn listen(to: &To) -> anyhow::Result<Receiver<()>> {
    let stream = EventStream::open(to.socket.clone())?;
    let (changed, changes) = channel();
    std::thread::Builder::new().name("events".into()).spawn(move || {
        for event in stream {
            if event.is_err() || changed.send(()).is_err() {
                return;
            }
        }
    })?;
    Ok(changes)
}

fn watch(
    terminal: &mut ratatui::DefaultTerminal,
    first: Look,
    changes: &Receiver<()>,
    to: &To,
) -> anyhow::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGHUP, SIGINT] {
        signal_hook::flag::register(signal, ended.clone())?;
    }
    let mut view = View { now: first, before: None };
    let mut looked = Instant::now();
    loop {
        terminal.draw(|frame| draw(frame, &view))?;
        let mut changed = false;
        loop {
            if ended.load(Ordering::Relaxed) || is_gone()? {
                return Ok(());
            }
            if event::poll(Duration::ZERO)? && is_end(&event::read()?) {
                return Ok(());
            }
            match changes.recv_timeout(Duration::ZERO) {
                Ok(()) => {
                    changed = true;
                    while changes.try_recv().is_ok() {}
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(anyhow!("primeway has ended")),
            }
            let passed = looked.elapsed();
            if passed >= INTERVAL || (changed && passed >= LEAST) {
                break;
            }
        }
        let now = Look::now(to.socket.as_ref()).map_err(|err| err.context("primeway has ended"))?;
        looked = Instant::now();
        // Rates are of up to a second, also while much happens.
        let View { now: last, before } = view;
        let young = |before: &Look| now.since(before).is_some_and(|seconds| seconds < 1.0);
        let before = before.filter(young).unwrap_or(last);
        view = View { now, before: Some(before) };
    }
}

/// Waits for a key a little. Tells whether the terminal has gone, which the reader of keys does not.
fn is_gone() -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    let mut polled = [PollFd::new(&stdin, PollFlags::IN)];
    let wait = Timespec { tv_sec: 0, tv_nsec: KEYS.subsec_nanos().into() };
    match rustix::event::poll(&mut polled, Some(&wait)) {
        Ok(_) => Ok(polled[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)),
        Err(Errno::INTR) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// q, Esc and Ctrl+C end it; every other event, such as another size, draws it anew.
fn is_end(event: &TerminalEvent) -> bool {
    let TerminalEvent::Key(key) = event else { return false };
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind != KeyEventKind::Release && (interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}

/// Draws the screen: a strip for each output, then the surfaces.
fn draw(frame: &mut Frame<'_>, view: &View) {
    let outputs = &view.now.planes.outputs;
    let strips = outputs.iter().map(|output| Constraint::Length(output.planes.len() as u16 + 2));
    let rows: Vec<Constraint> =
        [Constraint::Length(1)].into_iter().chain(strips).chain([Constraint::Min(3)]).collect();
    let areas = Layout::vertical(rows).split(frame.area());
    let way = |way: Way| view.now.explain.surfaces.iter().filter(|e| e.verdict.way == way).count();
    let title = format!(
        "primeway top   {}   {} scanned out, {} composited, {} hidden",
        show::clock(view.now.timeline.now_unix_ms),
        way(Way::ScannedOut),
        way(Way::Composited),
        way(Way::Hidden)
    );
    let title = Line::from(title).bold();
    let width = u16::try_from(title.width()).unwrap_or(u16::MAX);
    frame.render_widget(Paragraph::new(title), areas[0]);
    if areas[0].width >= width + 9 {
        frame.render_widget(Paragraph::new(Line::from("q quits").right_aligned()), areas[0]);
    }
    for (output, area) in outputs.iter().zip(areas.iter().skip(1)) {
        frame.render_widget(strip(view, output), *area);
    }
    if let Some(area) = areas.last() {
        frame.render_widget(surfaces(view, usize::from(area.height)), *area);
    }
}

fn strip<'a>(view: &View, output: &OutputPlanes) -> Table<'a> {
    let mut title = format!(" {} {}x{} ", output.output, output.size.0, output.size.1);
    if output.off {
        title += "· off ";
    } else if let Some(rate) = view.output_rate(&output.output) {
        title += &format!("· {rate:.1} fps ");
    }
    if let Some(frames) = view.now.timeline.outputs.iter().find(|o| o.output == output.output) {
        title += &format!("· {} missed ", frames.missed);
        if let Some(latency) = &frames.latency {
            title += &format!("· commit→flip p50 {:.1} p99 {:.1} ms ", latency.p50_ms, latency.p99_ms);
        }
    }
    show::flips(&output.flips).iter().for_each(|words| title += &format!("· {words} "));
    let rows = output.planes.iter().map(|row| {
        let z = row.z.map_or_else(|| "?".to_owned(), |z| z.to_string());
        let (format, place) = row.shows.as_ref().map_or_else(Default::default, |shows| {
            let ((w, h), (x, y)) = (shows.shown_size, shows.position);
            (format!("{} {}", shows.format, shows.modifier), format!("{w}x{h} at {x},{y}"))
        });
        let style = match (&row.surface, row.shows.is_some()) {
            (Some(_), _) => Style::new().fg(Color::Green),
            (None, true) => Style::new().fg(Color::Yellow),
            (None, false) => Style::new().fg(Color::DarkGray),
        };
        let plane = format!("{} {}", row.plane, row.r#type);
        Row::new([z, plane, row.who.clone(), format, place]).style(style)
    });
    let widths = [
        Constraint::Length(3),
        Constraint::Length(14),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(22),
    ];
    Table::new(rows, widths).block(Block::new().borders(Borders::TOP | Borders::BOTTOM).title(title))
}

/// The surfaces, as many as there is room for in so many lines, and how many more there are.
fn surfaces<'a>(view: &View, lines: usize) -> Table<'a> {
    let all = &view.now.explain.surfaces;
    let room = lines.saturating_sub(1);
    let shown = if all.len() > room { room.saturating_sub(1) } else { all.len() };
    let rows = all.iter().take(shown).map(|surface| {
        let (way, style) = match (surface.verdict.way, surface.verdict.plane) {
            (Way::ScannedOut, Some(plane)) => (format!("plane {plane}"), Style::new().fg(Color::Green)),
            (Way::ScannedOut, None) => ("scanned out".to_owned(), Style::new().fg(Color::Green)),
            (Way::Composited, _) => ("composited".to_owned(), Style::new().fg(Color::Yellow)),
            (Way::Hidden, _) => ("hidden".to_owned(), Style::new().fg(Color::DarkGray)),
        };
        let rate = view.surface_rate(surface).map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
        let why = surface.culprit.as_ref().filter(|_| surface.verdict.way != Way::ScannedOut);
        let why = why.map(|culprit| culprit.text.clone()).unwrap_or_default();
        Row::new([
            Cell::from(surface.who.pid.to_string()),
            Cell::from(surface.who.name()),
            Cell::from(Span::styled(way, style)),
            Cell::from(rate),
            Cell::from(why),
        ])
    });
    let heading = Row::new(["pid", "surface", "shown by", "fps", "why not by a plane"]);
    let heading = heading.style(Style::new().add_modifier(Modifier::BOLD));
    let widths = [
        Constraint::Length(7),
        Constraint::Fill(2),
        Constraint::Length(11),
        Constraint::Length(6),
        Constraint::Fill(3),
    ];
    let more = (all.len() > shown).then(|| {
        let text = format!("{} more", all.len() - shown);
        Row::new([Cell::from("…"), Cell::from(text)])
    });
    Table::new(rows.chain(more), widths).header(heading)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyEvent;

    use super::super::explain::{BufferReport, Verdict};
    use super::super::identity::Identity;
    use super::super::planes::{CapsReport, FlipReport, PlaneContent, PlaneRow};
    use super::super::remedy::Culprit;
    use super::super::timeline::{Latency, OutputTimeline};
    use super::*;

    fn surface(app_id: &str, plane: Option<u32>, frames: u64) -> Explanation {
        let culprit = plane.is_none().then(|| Culprit {
            kind: "client".to_owned(),
            text: "the buffer is not a dma-buf".to_owned(),
            plane: None,
            window: None,
        });
        Explanation {
            who: Identity {
                pid: 41,
                role: "toplevel".to_owned(),
                app_id: Some(app_id.to_owned()),
                surface: plane.unwrap_or(1),
                ..Identity::default()
            },
            output: Some("Virtual-1".to_owned()),
            buffer: None::<BufferReport>,
            position: (0, 0),
            size: (64, 64),
            verdict: Verdict {
                way: if plane.is_some() { Way::ScannedOut } else { Way::Composited },
                plane: plane.and_then(NonZeroU32::new),
                since_unix_ms: Some(1000),
                frames,
                avoidable_bytes_per_second: None,
            },
            planes: Vec::new(),
            culprit,
            remedies: Vec::new(),
            feedback: None,
            waits_for: None,
            undrawn: None,
        }
    }

    fn look(at: Instant, frames: u64) -> Look {
        let row = |plane: u32, kind: &str, who: &str, on: bool| PlaneRow {
            plane: NonZeroU32::new(plane).unwrap(),
            r#type: kind.to_owned(),
            z: Some(i64::from(plane)),
            who: who.to_owned(),
            surface: None,
            shows: on.then(|| PlaneContent {
                fb: 1,
                format: "NV12".to_owned(),
                modifier: "LINEAR".to_owned(),
                size: (64, 64),
                position: (5, 6),
                shown_size: (64, 64),
                fence: None,
                held_ms: None,
            }),
            pointer: None,
            caps: CapsReport::default(),
        };
        let planes = OutputPlanes {
            output: "Virtual-1".to_owned(),
            crtc: 1,
            size: (1024, 768),
            off: false,
            flips: FlipReport { lost: 1, ..FlipReport::default() },
            planes: vec![row(38, "overlay", "mpv (pid 41)", true), row(31, "primary", "-", false)],
        };
        let timeline = OutputTimeline {
            output: "Virtual-1".to_owned(),
            refresh_ms: 16.7,
            frames,
            missed: 3,
            latency: Some(Latency { frames: 9, p50_ms: 3.12, p99_ms: 9.8, max_ms: 12.0 }),
            changes: Vec::new(),
        };
        Look {
            at: Some(at),
            explain: ExplainReport {
                scanned_out: false,
                surfaces: vec![surface("mpv", Some(38), frames), surface("foot", None, 0)],
            },
            planes: PlanesReport { outputs: vec![planes] },
            timeline: TimelineReport { now_unix_ms: 0, outputs: vec![timeline] },
        }
    }

    fn screen(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let cell = |x, y| buffer.cell((x, y)).unwrap().symbol().to_owned();
        (0..height)
            .map(|y| (0..width).map(|x| cell(x, y)).collect::<String>().trim_end().to_owned())
            .collect()
    }

    fn view() -> View {
        let start = Instant::now();
        View { now: look(start + Duration::from_secs(2), 220), before: Some(look(start, 100)) }
    }

    #[test]
    fn every_number_has_its_place() {
        let screen = screen(&view(), 100, 12);
        assert!(
            screen[0].contains("1 scanned out, 1 composited, 0 hidden") && screen[0].ends_with("q quits")
        );
        let strip =
            "─ Virtual-1 1024x768 · 60.0 fps · 3 missed · commit→flip p50 3.1 p99 9.8 ms · 1 lost flips ─";
        assert!(screen[1].replace("  ", " ").contains(strip.trim_start_matches("─")), "{screen:#?}");
        assert!(
            screen[2].starts_with("38  38 overlay") && screen[2].ends_with("64x64 at 5,6"),
            "{screen:#?}"
        );
        assert_eq!(
            screen[5].split_whitespace().collect::<Vec<_>>().join(" "),
            "pid surface shown by fps why not by a plane"
        );
        let [mpv, foot] = [6, 7].map(|y: usize| screen[y].split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(mpv, "41 mpv (pid 41) plane 38 60.0");
        assert_eq!(foot, "41 foot (pid 41) composited 0.0 the buffer is not a dma-buf");
    }

    #[test]
    fn what_does_not_fit_is_counted_and_off_is_said() {
        let mut view = view();
        view.now.explain.surfaces = (0..20).map(|_| surface("foot", None, 0)).collect();
        view.now.planes.outputs[0].off = true;
        let all = screen(&view, 80, 24);
        assert!(all[1].contains("Virtual-1 1024x768 · off"), "{all:#?}");
        let rows = all.iter().filter(|line| line.starts_with("41 ")).count();
        assert!(all[23].contains(&format!("{} more", 20 - rows)), "{all:#?}");
        let narrow = screen(&view, 40, 24);
        assert!(narrow[0].starts_with("primeway top") && !narrow[0].contains("quits"), "{narrow:#?}");
    }

    #[test]
    fn a_terminal_of_any_size_will_do() {
        for (width, height) in [(1, 1), (3, 2), (20, 5), (300, 80)] {
            assert_eq!(screen(&view(), width, height).len(), usize::from(height));
        }
    }

    /// It runs itself in a terminal of its own, and panics there.
    #[test]
    fn a_panic_gives_the_terminal_back() {
        const IN_TERMINAL: &str = "PRIMEWAY_TEST_PANICS_IN_TERMINAL";
        if std::env::var_os(IN_TERMINAL).is_some() {
            let shown = in_terminal(|terminal| {
                terminal.draw(|frame| draw(frame, &view()))?;
                panic!("on purpose");
            });
            unreachable!("{shown:?}");
        }
        let own = std::env::current_exe().unwrap();
        let test = "ctl::top::tests::a_panic_gives_the_terminal_back";
        let run = format!("stty -a; '{}' --exact {test} --nocapture; stty -a", own.display());
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &run, "/dev/null"]).stdin(std::process::Stdio::null());
        let output = script.env(IN_TERMINAL, "1").env("TERM", "xterm").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part:?} is not in {text}"));
        // The other screen is taken, then given back, and only then is the panic told of.
        assert!(
            at("\u{1b}[?1049h") < at("\u{1b}[?1049l") && at("\u{1b}[?1049l") < at("on purpose"),
            "{text}"
        );
        let settings = |text: &str| -> Vec<String> {
            let all = text.lines().filter(|line| line.contains("icanon") || line.contains("echo"));
            all.map(|line| line.trim().to_owned()).collect()
        };
        let (before, after) = text.split_at(at("\u{1b}[?1049h"));
        let (before, after) = (settings(before), settings(after));
        assert!(!before.is_empty() && before == after, "{before:?}, then {after:?}");
        assert!(before.iter().any(|line| line.contains(" icanon")), "{before:?}");
    }

    #[test]
    fn only_the_keys_for_it_end_it() {
        let key = |code, modifiers| is_end(&TerminalEvent::Key(KeyEvent::new(code, modifiers)));
        assert!(key(KeyCode::Char('q'), KeyModifiers::NONE) && key(KeyCode::Esc, KeyModifiers::NONE));
        assert!(key(KeyCode::Char('c'), KeyModifiers::CONTROL));
        assert!(!key(KeyCode::Char('c'), KeyModifiers::NONE) && !is_end(&TerminalEvent::Resize(1, 1)));
    }

    #[test]
    fn a_rate_is_of_a_surface_that_stays() {
        let mut view = view();
        let rate = |view: &View| view.surface_rate(&view.now.explain.surfaces[0]);
        assert_eq!(rate(&view), Some(60.0));
        view.now.explain.surfaces[0].verdict.since_unix_ms = Some(9000);
        assert_eq!(rate(&view), None);
    }
}
