//! `primeway report`: one HTML page about a running primeway, to be attached to a bug report.
//!
//! It owns the page: everything is in it, nothing is fetched, no script runs, and what clients say of themselves is escaped.
//! Titles of windows are never in it; app ids are. What is in the answers it is made of is collected elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::num::NonZeroU32;

use serde::Serialize;
use serde_json::Value;

use super::buffers::BuffersReport;
use super::explain::{ExplainReport, Explanation, Way};
use super::outputs::{self, OutputsReport};
use super::planes::{CapsReport, PlanesReport};
use super::show;
use super::table::{age, mebibytes, plain};
use super::timeline::{OutputTimeline, TimelineReport};

/// What a report is made of, and its JSON.
#[derive(Debug, Serialize)]
pub struct Parts {
    /// The answer to `stats`.
    pub stats: Value,
    /// Of every surface.
    pub explain: ExplainReport,
    /// Of every plane.
    pub planes: PlanesReport,
    /// Of every owner.
    pub buffers: BuffersReport,
    /// What happened lately.
    pub timeline: TimelineReport,
    /// The kernel's release.
    pub kernel: String,
    /// The outputs with their modes.
    pub outputs: OutputsReport,
}

/// Takes the titles of windows out of an answer.
pub fn untitle(answer: &mut Value) {
    match answer {
        Value::Object(fields) => {
            fields.remove("title");
            fields.values_mut().for_each(untitle);
        }
        Value::Array(all) => all.iter_mut().for_each(untitle),
        _ => {}
    }
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() && c != '\n' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--good:#1a7f37;--fair:#b93c09;--dim:#666}
@media(prefers-color-scheme:dark){:root{--good:#56d364;--fair:#fb923c;--dim:#aaa}}
body{font:14px/1.45 system-ui,sans-serif;max-width:76rem;margin:1.5rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1rem 0 .3rem}
table{border-collapse:collapse;width:100%;margin:.3rem 0 .8rem}
th,td{text-align:left;vertical-align:top;padding:.25rem .6rem;border-bottom:1px solid var(--line)}
th{font-weight:600;background:var(--soft)}td.n{text-align:right;font-variant-numeric:tabular-nums}
code,td.m{font-family:ui-monospace,monospace;font-size:.92em;overflow-wrap:anywhere}
.scanned{color:var(--good);font-weight:600}.composited{color:var(--fair);font-weight:600}.hidden,p.soft{color:var(--dim)}
svg{width:100%;height:auto;display:block;margin:.4rem 0}svg text{font:11px system-ui,sans-serif;fill:currentColor}
details{margin:.3rem 0}summary{cursor:pointer}.key{display:inline-block;margin-right:1.2rem;white-space:nowrap}
.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em;vertical-align:-.05em}
.wide{overflow-x:auto}.wide svg{min-width:50rem}";

/// Makes the page.
pub fn page(parts: &Parts) -> String {
    let mut html = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.push_str("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">");
    html.push_str("<meta name=\"viewport\" content=\"width=device-width\"><title>primeway report</title>");
    let _ = write!(html, "<style>{STYLE}</style></head><body>\n<h1>primeway report</h1>\n");
    about(parts, &mut html);
    let modes = escape(&outputs::show(&parts.outputs));
    let _ = writeln!(
        html,
        "<details><summary>Outputs and their modes</summary><div class=\"wide\"><pre>{modes}</pre></div></details>"
    );
    timelines(parts, &mut html);
    surfaces(parts, &mut html);
    planes(parts, &mut html);
    caps(parts, &mut html);
    buffers(parts, &mut html);
    counters(parts, &mut html);
    html.push_str("</body></html>\n");
    html
}

fn about(parts: &Parts, html: &mut String) {
    let text = |path: &str| {
        let value = parts.stats.pointer(path);
        let text = value.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        escape(&text.filter(|t| t != "null").unwrap_or_else(|| "none".to_owned()))
    };
    let millis = i64::try_from(parts.timeline.now_unix_ms).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(millis).unwrap_or_default();
    let _ = write!(
        html,
        "<p>primeway {} · {} · Linux {} · driver <b>{}</b> · device <code>{}</code> · PRIME file <b>{}</b> · composited by <b>{}</b></p>\n\
         <p class=\"soft\">Titles of windows are left out.</p>\n",
        env!("CARGO_PKG_VERSION"),
        at.strftime("%Y-%m-%d %H:%M:%S UTC"),
        escape(&parts.kernel),
        text("/device/driver"),
        text("/device/node"),
        text("/device/acquisition"),
        text("/renderer/name"),
    );
}

/// Everybody who was on a plane, in the order of their coming: whoever comes after somebody has quite another colour.
#[derive(Default)]
struct Colours(Vec<String>);

impl Colours {
    fn of(&mut self, who: &str) -> String {
        match who {
            "composited" => return "hsl(25 75% 55%)".to_owned(),
            "pointer" => return "hsl(0 0% 60%)".to_owned(),
            _ => {}
        }
        let index = self.0.iter().position(|known| known == who).unwrap_or_else(|| {
            self.0.push(who.to_owned());
            self.0.len() - 1
        });
        // Golden sections of the circle without orange, so that nobody looks like composition.
        let turn = (0.5 + index as f64 * 0.618_034).fract();
        format!("hsl({:.0} 60% {}%)", 60.0 + turn * 280.0, 42 + index % 3 * 7)
    }
}

fn timelines(parts: &Parts, html: &mut String) {
    html.push_str("<h2>Planes over time</h2>\n");
    let mut colours = Colours::default();
    for output in &parts.timeline.outputs {
        let _ = writeln!(html, "<h3>{}</h3>", escape(&output.output));
        if let Some(latency) = &output.latency {
            let _ = writeln!(
                html,
                "<p>{} frames, {} vertical blanks missed; from a client's commit to the display p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms (last {} frames; a refresh takes {:.2} ms)</p>",
                output.frames,
                output.missed,
                latency.p50_ms,
                latency.p99_ms,
                latency.max_ms,
                latency.frames,
                output.refresh_ms
            );
        }
        let now = parts.planes.outputs.iter().find(|o| o.output == output.output);
        let flips = now.map(|o| show::flips(&o.flips)).unwrap_or_default();
        if !flips.is_empty() {
            let _ = writeln!(html, "<p>{}</p>", escape(&flips.join("; ")));
        }
        timeline(output, parts.timeline.now_unix_ms, &mut colours, html);
    }
}

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 90.0;
const ROW: f64 = 24.0;

fn timeline(output: &OutputTimeline, now: u64, colours: &mut Colours, html: &mut String) {
    let Some(first) = output.changes.first() else {
        html.push_str("<p>No plane has shown anything yet.</p>\n");
        return;
    };
    let planes: BTreeSet<NonZeroU32> =
        output.changes.iter().flat_map(|c| c.planes.iter().map(|(plane, _)| *plane)).collect();
    let span = now.saturating_sub(first.at_unix_ms).max(1) as f64;
    let x = |at: u64| LEFT + (at.saturating_sub(first.at_unix_ms)) as f64 / span * (WIDTH - LEFT);
    let height = ROW * planes.len() as f64 + 22.0;
    let _ = writeln!(
        html,
        "<div class=\"wide\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"planes over time\">"
    );
    let mut keys = BTreeSet::new();
    for (row, plane) in planes.iter().rev().enumerate() {
        let y = ROW * row as f64;
        let _ = write!(html, "<text x=\"0\" y=\"{:.1}\">plane {plane}</text>", y + 15.0);
        for (who, from, to) in spans(output, *plane, now) {
            let (from, to) = (x(from), x(to));
            let _ = write!(
                html,
                "<rect x=\"{from:.2}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{:.1}\" rx=\"2\" fill=\"{}\"><title>{}</title></rect>",
                y + 3.0,
                (to - from).max(0.6),
                ROW - 6.0,
                colours.of(&who),
                escape(&who)
            );
            keys.insert(who);
        }
        html.push('\n');
    }
    let (start, end) = (show::clock(first.at_unix_ms), show::clock(now));
    let y = height - 6.0;
    let _ = write!(
        html,
        "<text x=\"{LEFT}\" y=\"{y}\">{start}</text><text x=\"{WIDTH}\" y=\"{y}\" text-anchor=\"end\">{end}</text></svg></div>\n<p>"
    );
    for who in keys {
        let _ = write!(
            html,
            "<span class=\"key\"><i style=\"background:{}\"></i>{}</span>",
            colours.of(&who),
            escape(&who)
        );
    }
    html.push_str("</p>\n");
}

/// Whom a plane showed, from when to when.
fn spans(output: &OutputTimeline, plane: NonZeroU32, now: u64) -> Vec<(String, u64, u64)> {
    let mut spans: Vec<(String, u64, u64)> = Vec::new();
    for (index, change) in output.changes.iter().enumerate() {
        let end = output.changes.get(index + 1).map_or(now, |next| next.at_unix_ms);
        let who = change.planes.iter().find(|(id, _)| *id == plane).and_then(|(_, who)| who.clone());
        match (who, spans.last_mut()) {
            (Some(who), Some(last)) if last.0 == who && last.2 == change.at_unix_ms => last.2 = end,
            (Some(who), _) => spans.push((who, change.at_unix_ms, end)),
            (None, _) => {}
        }
    }
    spans
}

fn surfaces(parts: &Parts, html: &mut String) {
    html.push_str("<h2>Surfaces</h2>\n");
    if parts.explain.surfaces.is_empty() {
        html.push_str("<p>No surface is shown.</p>\n");
    }
    for surface in &parts.explain.surfaces {
        surface_section(surface, html);
    }
}

fn surface_section(surface: &Explanation, html: &mut String) {
    let class = match surface.verdict.way {
        Way::ScannedOut => "scanned",
        Way::Composited => "composited",
        Way::Hidden => "hidden",
    };
    let buffer = surface.buffer.as_ref().map(|buffer| {
        let format = match (&buffer.format, &buffer.modifier) {
            (Some(format), Some(modifier)) => format!("{format} {modifier}"),
            _ => "wl_shm".to_owned(),
        };
        let origin = buffer.origin.as_ref().map(|o| format!(", memory: {o}")).unwrap_or_default();
        format!("{}x{} {format}{origin}", buffer.size.0, buffer.size.1)
    });
    let _ = write!(
        html,
        "<h3>{}</h3>\n<p>{} · <span class=\"{class}\">{}</span></p>\n",
        escape(&surface.who.name()),
        escape(&buffer.unwrap_or_default()),
        escape(&show::verdict(&surface.verdict)),
    );
    let culprit = surface.culprit.as_ref().map(|culprit| ("In the way", culprit.text.clone()));
    let more = [
        ("Waits", surface.waits_for.clone()),
        ("Black", surface.undrawn.clone()),
        ("Try", Some(surface.remedies.join("; ")).filter(|text| !text.is_empty())),
    ];
    let more = more.into_iter().filter_map(|(key, text)| Some((key, text?)));
    if surface.verdict.way != Way::ScannedOut {
        for (key, text) in culprit.into_iter().chain(more) {
            let _ = writeln!(html, "<p><b>{key}</b>: {}</p>", escape(&text));
        }
    }
    if surface.planes.is_empty() {
        return;
    }
    html.push_str("<table><tr><th>plane</th><th>type</th><th>shows it</th><th>why not</th></tr>\n");
    for plane in &surface.planes {
        let guess = plane.guess.as_ref().map(|guess| format!(" ({guess})")).unwrap_or_default();
        let why = plane.refusal.as_ref().map(|r| format!("{}{guess}", r.text)).unwrap_or_default();
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            plane.plane,
            escape(&plane.r#type),
            if plane.shows { "yes" } else { "no" },
            escape(&why)
        );
    }
    html.push_str("</table>\n");
}

fn planes(parts: &Parts, html: &mut String) {
    html.push_str("<h2>Planes now</h2>\n");
    for output in &parts.planes.outputs {
        let _ = write!(
            html,
            "<h3>{} · {}x{}{} · crtc {}</h3>\n<div class=\"wide\"><table><tr><th>z</th><th>plane</th><th>who</th><th>format</th><th>place</th><th>fb</th><th>held</th></tr>\n",
            escape(&output.output),
            output.size.0,
            output.size.1,
            if output.off { " · off" } else { "" },
            output.crtc
        );
        for row in &output.planes {
            let z = row.z.map_or_else(|| "?".to_owned(), |z| z.to_string());
            let (mut format, mut place, mut fb, mut held) =
                (String::new(), String::new(), String::new(), String::new());
            if let Some(shows) = &row.shows {
                format = format!("{} {}", shows.format, shows.modifier);
                let ((w, h), (x, y)) = (shows.shown_size, shows.position);
                place = format!("{w}x{h} at {x},{y}");
                fb = shows.fb.to_string();
                held = shows.held_ms.map(age).unwrap_or_default();
            }
            let _ = writeln!(
                html,
                "<tr><td>{z}</td><td>{} {}</td><td>{}</td><td>{}</td><td>{place}</td><td>{fb}</td><td>{held}</td></tr>",
                row.plane,
                escape(&row.r#type),
                escape(&row.who),
                escape(&format)
            );
        }
        html.push_str("</table></div>\n");
    }
}

fn caps(parts: &Parts, html: &mut String) {
    html.push_str("<h2>What the planes can do</h2>\n");
    for output in &parts.planes.outputs {
        let _ = write!(
            html,
            "<h3>{}</h3>\n<div class=\"wide\"><table><tr><th>plane</th><th>type</th><th>zpos</th><th>scaling</th><th>rotations</th><th>alpha</th><th>blends</th><th>YUV</th><th>sizes</th><th>foreign</th></tr>\n",
            escape(&output.output)
        );
        for row in &output.planes {
            let caps = &row.caps;
            let yes = |flag: bool| if flag { "yes" } else { "no" };
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                row.plane,
                escape(&row.r#type),
                escape(&caps.zpos),
                escape(&caps.scaling),
                escape(&caps.rotations),
                yes(caps.alpha),
                yes(caps.blends),
                yuv(caps),
                sizes(caps),
                yes(caps.foreign)
            );
        }
        html.push_str("</table></div>\n");
        formats(output.planes.iter().map(|row| (row.plane, &row.caps)), html);
    }
}

fn yuv(caps: &CapsReport) -> String {
    let names = ["BT.601", "BT.709", "BT.2020"].into_iter().zip(caps.encodings);
    let ranges = ["limited", "full"].into_iter().zip(caps.ranges);
    let set: Vec<&str> = names.chain(ranges).filter(|(_, has)| *has).map(|(name, _)| name).collect();
    set.join(" ")
}

fn sizes(caps: &CapsReport) -> String {
    let cursor: Vec<String> = caps.cursor_sizes.iter().map(|(w, h)| format!("{w}x{h}")).collect();
    match (caps.sizes, cursor.is_empty()) {
        (_, false) => cursor.join(" "),
        (Some(((w, h), (width, height))), _) => format!("{w}x{h} to {width}x{height}"),
        (None, true) => "any".to_owned(),
    }
}

/// Formats by modifiers, with the planes that take them.
fn formats<'a>(planes: impl Iterator<Item = (NonZeroU32, &'a CapsReport)>, html: &mut String) {
    let mut takers: BTreeMap<(&str, &str), Vec<NonZeroU32>> = BTreeMap::new();
    let mut all = Vec::new();
    for (plane, caps) in planes {
        all.push(plane);
        for (format, modifiers) in &caps.formats {
            for modifier in modifiers {
                takers.entry((format, modifier)).or_default().push(plane);
            }
        }
    }
    let _ = write!(
        html,
        "<details open><summary>{} formats with modifiers</summary><div class=\"wide\"><table><tr><th>format</th><th>modifier</th>",
        takers.len()
    );
    for plane in &all {
        let _ = write!(html, "<th>plane {plane}</th>");
    }
    html.push_str("</tr>\n");
    for ((format, modifier), by) in &takers {
        let _ = write!(
            html,
            "<tr><td class=\"m\">{}</td><td class=\"m\">{}</td>",
            escape(format),
            escape(modifier)
        );
        for plane in &all {
            html.push_str(if by.contains(plane) { "<td>yes</td>" } else { "<td></td>" });
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div></details>\n");
}

fn buffers(parts: &Parts, html: &mut String) {
    html.push_str("<h2>Buffers</h2>\n<div class=\"wide\"><table><tr><th>owner</th><th>app</th><th>dma-bufs</th><th>wl_shm</th><th>MiB</th><th>framebuffers</th><th>GEM handles</th><th>files</th><th>memory of</th></tr>\n");
    for owner in &parts.buffers.owners {
        let origins: Vec<String> = owner.origins.iter().map(|(o, count)| format!("{count} {o}")).collect();
        let apps: Vec<String> = owner.app_ids.iter().map(|id| plain(id)).collect();
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>",
            escape(&owner.owner),
            escape(&apps.join(", ")),
            owner.dmabufs,
            owner.shm_buffers,
            mebibytes(owner.bytes),
            owner.framebuffers,
            owner.handles,
            owner.files,
            escape(&origins.join(", "))
        );
    }
    html.push_str("</table></div>\n");
}

fn counters(parts: &Parts, html: &mut String) {
    html.push_str("<h2>Counters</h2>\n<table>\n");
    let empty = serde_json::Map::new();
    for (key, value) in parts.stats["resources"].as_object().unwrap_or(&empty) {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td class=\"n\">{}</td></tr>",
            escape(key),
            escape(&value.to_string())
        );
    }
    let refused = &parts.stats["imports"]["refused"];
    let _ = write!(
        html,
        "<tr><td>buffers refused</td><td class=\"n\">{}</td></tr>\n</table>\n",
        escape(&refused.to_string())
    );
    let last = parts.stats["imports"]["last"].as_array();
    for buffer in last.into_iter().flatten() {
        let _ = writeln!(html, "<p>Refused: <code>{}</code></p>", escape(&buffer.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::timeline::PlaneChange;
    use super::*;

    fn change(at_unix_ms: u64, who: Option<&str>) -> PlaneChange {
        let planes = vec![(NonZeroU32::MIN, who.map(str::to_owned))];
        PlaneChange { at_unix_ms, planes, composited: 0 }
    }

    fn parts(changes: Vec<PlaneChange>) -> Parts {
        let output = OutputTimeline {
            output: "A<b>".to_owned(),
            refresh_ms: 16.7,
            frames: 1,
            missed: 0,
            latency: None,
            changes,
        };
        Parts {
            stats: json!({ "imports": { "refused": 1, "last": [{ "owner": "<i>" }] } }),
            explain: ExplainReport { scanned_out: false, surfaces: Vec::new() },
            planes: PlanesReport { outputs: Vec::new() },
            buffers: BuffersReport { owners: Vec::new() },
            timeline: TimelineReport { now_unix_ms: 100, outputs: vec![output] },
            kernel: "7.2.13".to_owned(),
            outputs: OutputsReport { outputs: Vec::new(), unlit: Vec::new() },
        }
    }

    #[test]
    fn spans_join_where_nothing_changed() {
        let all =
            parts(vec![change(0, Some("a")), change(10, Some("a")), change(20, None), change(30, Some("b"))]);
        let spans = spans(&all.timeline.outputs[0], NonZeroU32::MIN, 100);
        assert_eq!(spans, [("a".to_owned(), 0, 20), ("b".to_owned(), 30, 100)]);
    }

    #[test]
    fn nothing_that_is_said_becomes_markup() {
        let html = page(&parts(vec![change(0, Some("<script>alert(1)</script>'\""))]));
        assert!(!html.contains("<script") && !html.contains("<i>\"") && !html.contains("A<b>"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&#39;&quot;"), "{html}");
        assert!(html.contains("<h3>A&lt;b&gt;</h3>"), "{html}");
    }

    #[test]
    fn neighbours_have_other_colours() {
        let mut colours = Colours::default();
        let mut hues: Vec<f64> = Vec::new();
        for pid in 4000..4012 {
            let colour = colours.of(&format!("app (pid {pid})"));
            assert_eq!(colour, colours.of(&format!("app (pid {pid})")));
            hues.push(colour[4..].split(' ').next().unwrap().parse().unwrap());
        }
        assert!(hues.windows(2).all(|pair| (pair[0] - pair[1]).abs() > 60.0), "{hues:?}");
        assert!(hues.iter().all(|hue| *hue >= 60.0), "{hues:?}");
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let html = page(&parts(Vec::new()));
        for reference in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!html.contains(reference), "{reference}");
        }
    }
}
