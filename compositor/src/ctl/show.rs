//! Reports as text for people. It owns the tables; what is in the reports is collected elsewhere.

use std::fmt::Write as _;

use super::buffers::BuffersReport;
use super::events::{Event, SurfaceSummary};
use super::explain::{ExplainReport, Explanation, PlaneVerdict, Verdict, Way};
use super::identity::Identity;
use super::planes::{FlipReport, PlaneRow, PlanesReport};
use super::table::{age, lay_out, mebibytes, plain};

/// A time of day, as the clock on the wall has it.
pub fn clock(unix_ms: u64) -> String {
    let millis = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// A number with its thousands apart.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn rate(bytes_per_second: u64) -> String {
    match bytes_per_second {
        0..10_000_000 => format!("{:.1} MB/s", bytes_per_second as f64 / 1e6),
        10_000_000..1_000_000_000 => format!("{} MB/s", bytes_per_second / 1_000_000),
        _ => format!("{:.1} GB/s", bytes_per_second as f64 / 1e9),
    }
}

/// What a surface's state is, in a line.
pub fn verdict(verdict: &Verdict) -> String {
    let since = verdict.since_unix_ms.map(|at| format!(" since {}", clock(at))).unwrap_or_default();
    let frames = match verdict.frames {
        1 => "1 frame".to_owned(),
        frames => format!("{} frames", thousands(frames)),
    };
    match (verdict.way, verdict.plane, verdict.avoidable_bytes_per_second) {
        (Way::ScannedOut, Some(plane), _) => format!("scanned out by plane {plane}{since} ({frames})"),
        (Way::ScannedOut, None, _) => format!("scanned out{since} ({frames})"),
        (Way::Composited, _, Some(bytes)) if bytes >= 100_000 => {
            format!("composited{since} ({frames}, an estimated {} avoidable)", rate(bytes))
        }
        (Way::Composited, ..) => format!("composited{since} ({frames})"),
        (Way::Hidden, ..) => format!("hidden{since}"),
    }
}

fn heading(surface: &Explanation) -> String {
    let mut line = surface.who.name();
    if let Some(buffer) = &surface.buffer {
        let _ = write!(line, "  {}x{}", buffer.size.0, buffer.size.1);
        match (&buffer.format, &buffer.modifier) {
            (Some(format), Some(modifier)) => {
                let _ = write!(line, " {format} {modifier}");
            }
            _ => line.push_str(" wl_shm"),
        }
    }
    if let Some(title) = surface.who.title.as_deref().filter(|title| !title.is_empty()) {
        let _ = write!(line, "  \"{}\"", plain(title));
    }
    if let Some(output) = &surface.output {
        let _ = write!(line, "  on {output}");
    }
    line
}

fn explanation(surface: &Explanation) -> String {
    let mut text = heading(surface) + "\n";
    let mut rows = vec![("VERDICT", verdict(&surface.verdict))];
    if let Some(culprit) = surface.culprit.as_ref().filter(|_| surface.verdict.way != Way::ScannedOut) {
        rows.push(("CULPRIT", culprit.text.clone()));
    }
    let line = |text: &mut String, (key, value): &(&str, String)| {
        let _ = writeln!(text, "{key:<8} {value}");
    };
    rows.iter().for_each(|row| line(&mut text, row));
    let planes: Vec<Vec<String>> = surface.planes.iter().map(plane_verdict).collect();
    text.push_str(&lay_out(&planes));
    let more = [("WAITS", surface.waits_for.clone()), ("BLACK", surface.undrawn.clone())];
    for (key, value) in more {
        value.into_iter().for_each(|value| line(&mut text, &(key, value)));
    }
    if surface.verdict.way != Way::ScannedOut {
        for remedy in &surface.remedies {
            line(&mut text, &("TRY", remedy.clone()));
        }
    }
    text
}

fn plane_verdict(plane: &PlaneVerdict) -> Vec<String> {
    let guess = plane.guess.as_ref().map(|guess| format!(" ({guess})")).unwrap_or_default();
    let why = plane.refusal.as_ref().map(|refusal| refusal.text.clone() + &guess);
    let shows = if plane.shows { "yes" } else { "no" };
    let name = format!("  plane {}", plane.plane);
    vec![name, plane.r#type.clone(), shows.to_owned(), why.unwrap_or_default()]
}

/// `primeway explain`.
pub fn explain(report: &ExplainReport) -> String {
    let all: Vec<String> = report.surfaces.iter().map(explanation).collect();
    all.join("\n")
}

/// `primeway planes`.
pub fn planes(report: &PlanesReport) -> String {
    let cells = |cells: [&str; 8]| cells.map(str::to_owned).to_vec();
    let mut text = String::new();
    for output in &report.outputs {
        let _ = write!(text, "{}  {}x{}  crtc {}", output.output, output.size.0, output.size.1, output.crtc);
        if output.off {
            text += "  off";
        }
        flips(&output.flips).iter().for_each(|words| text += &format!("  {words}"));
        text.push('\n');
        let mut rows = vec![cells(["z", "plane", "who", "format", "modifier", "size", "fence", "held"])];
        rows.extend(output.planes.iter().map(plane_row));
        text.push_str(&lay_out(&rows));
        for row in &output.planes {
            if let Some(refusal) = &row.pointer {
                let _ = writeln!(
                    text,
                    "pointer composited: plane {} does not show it, {}",
                    row.plane, refusal.text
                );
            }
        }
    }
    text
}

/// What there is to say of an output's flips.
pub fn flips(flips: &FlipReport) -> Vec<String> {
    let rate = flips.vrr.map(|vrr| if vrr { "free refresh rate" } else { "fixed refresh rate" }.to_owned());
    let tearing = flips.tearing.as_ref().map(|how| match how.as_str() {
        "at once" => "flips at once".to_owned(),
        why => format!("does not flip at once: {why}"),
    });
    let lost = (flips.lost > 0).then(|| format!("{} lost flips", flips.lost));
    [rate, tearing, lost].into_iter().flatten().collect()
}

fn plane_row(row: &PlaneRow) -> Vec<String> {
    let z = row.z.map_or_else(|| "?".to_owned(), |z| z.to_string());
    let plane = format!("{} {}", row.plane, row.r#type);
    let Some(shows) = &row.shows else { return vec![z, plane, row.who.clone()] };
    let place =
        format!("{}x{} at {},{}", shows.shown_size.0, shows.shown_size.1, shows.position.0, shows.position.1);
    vec![
        z,
        plane,
        row.who.clone(),
        shows.format.clone(),
        shows.modifier.clone(),
        place,
        shows.fence.clone().unwrap_or_else(|| "-".to_owned()),
        shows.held_ms.map_or_else(|| "-".to_owned(), age),
    ]
}

/// `primeway buffers`.
pub fn buffers(report: &BuffersReport) -> String {
    let heading = ["owner", "app", "bufs", "shm", "MiB", "FBs", "handles", "fds", "origin", "oldest"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for owner in &report.owners {
        let origins: Vec<String> =
            owner.origins.iter().map(|(origin, count)| format!("{count} {origin}")).collect();
        let app_ids: Vec<String> = owner.app_ids.iter().map(|id| plain(id)).collect();
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        rows.push(vec![
            plain(&owner.owner),
            dash(app_ids.join(", ")),
            owner.dmabufs.to_string(),
            owner.shm_buffers.to_string(),
            mebibytes(owner.bytes),
            owner.framebuffers.to_string(),
            owner.handles.to_string(),
            owner.files.to_string(),
            dash(origins.join(", ")),
            owner.oldest_ms.map_or_else(|| "-".to_owned(), age),
        ]);
    }
    lay_out(&rows)
}

/// A line for an event.
pub fn event(event: &Event) -> String {
    let dash = |who: &Option<String>| who.clone().unwrap_or_else(|| "nothing".to_owned());
    match event {
        Event::State { missed, all } => {
            let mut text = if *missed { "events were missed; now there are\n" } else { "" }.to_owned();
            for output in &all.outputs {
                let _ = writeln!(text, "output {}  {}x{}", output.output, output.size.0, output.size.1);
            }
            let lines = all.surfaces.iter().map(|s| format!("{}  {}\n", surface(&s.who), stands(s)));
            text.extend(lines);
            text
        }
        Event::OutputAdded { output } => {
            format!("output {} added, {}x{}\n", output.output, output.size.0, output.size.1)
        }
        Event::OutputRemoved { output } => format!("output {output} removed\n"),
        Event::SurfaceMapped { surface: s } => format!("{} mapped, {}\n", surface(&s.who), stands(s)),
        Event::SurfaceGone { surface: who } => format!("{} gone\n", surface(who)),
        Event::Verdict { surface: s } => format!("{} {}\n", surface(&s.who), stands(s)),
        Event::Plane { output, plane, from, to } => {
            format!("{output}: plane {plane} shows {} after {}\n", dash(to), dash(from))
        }
        Event::Feedback { surface: who, scanout } => {
            let what = if *scanout { "what planes take" } else { "the default" };
            format!("{} was told {what}\n", surface(who))
        }
    }
}

/// How a surface gets to the screen, and why not better.
pub fn stands(surface: &SurfaceSummary) -> String {
    let guess = surface.guess.as_ref().map(|guess| format!(" ({guess})")).unwrap_or_default();
    let why = surface.reason.as_ref().map(|reason| format!(": {}{guess}", reason.text)).unwrap_or_default();
    match (surface.way, surface.plane) {
        (Way::ScannedOut, Some(plane)) => format!("scanned out by plane {plane}"),
        (Way::ScannedOut, None) => "scanned out".to_owned(),
        (Way::Composited, _) => format!("composited{why}"),
        (Way::Hidden, _) => format!("hidden{why}"),
    }
}

/// A surface's name with its title, in a line.
pub fn surface(who: &Identity) -> String {
    match who.title.as_deref().filter(|title| !title.is_empty()) {
        Some(title) => format!("{}  \"{}\"", who.name(), plain(title)),
        None => who.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_people_write_them() {
        assert_eq!([thousands(7), thousands(3120), thousands(1_234_567)], ["7", "3 120", "1 234 567"]);
        assert_eq!(
            [rate(2_500_000), rate(250_000_000), rate(1_120_000_000)],
            ["2.5 MB/s", "250 MB/s", "1.1 GB/s"]
        );
        assert_eq!(clock(0).len(), 8);
    }

    #[test]
    fn flips_are_told_of_where_there_is_something_to_tell() {
        assert_eq!(flips(&FlipReport::default()), Vec::<String>::new());
        let all = FlipReport { lost: 2, vrr: Some(true), tearing: Some("more changes".to_owned()) };
        let words = ["free refresh rate", "does not flip at once: more changes", "2 lost flips"];
        assert_eq!(flips(&all), words);
        let good = FlipReport { lost: 0, vrr: Some(false), tearing: Some("at once".to_owned()) };
        assert_eq!(flips(&good), ["fixed refresh rate", "flips at once"]);
    }

    #[test]
    fn a_verdict_says_what_it_costs() {
        let composited = Verdict {
            way: Way::Composited,
            plane: None,
            since_unix_ms: None,
            frames: 3120,
            avoidable_bytes_per_second: Some(1_100_000_000),
        };
        assert_eq!(verdict(&composited), "composited (3 120 frames, an estimated 1.1 GB/s avoidable)");
    }
}
