//! `output`: which outputs there are, with the modes of their displays; and what can be asked of one: another mode, off, on.
//!
//! It owns the report, the choice of a mode by its text, and what is said of a wish that cannot be met. What follows from a
//! change is in [`crate::arrangement`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::table::lay_out;
use crate::backend::OutputId;
use crate::backend::kms::device::Mode;
use crate::state::State;

/// What is asked of an output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Its name, such as `HDMI-A-1`.
    pub name: String,
    /// WIDTHxHEIGHT, WIDTHxHEIGHT@HERTZ, or `preferred`.
    #[serde(default)]
    pub mode: Option<String>,
    /// Whether it shows anything.
    #[serde(default)]
    pub power: Option<bool>,
}

/// All outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputsReport {
    /// Left to right.
    pub outputs: Vec<OutputReport>,
    /// Displays that are connected and not driven: no CRTC is left that could.
    pub unlit: Vec<String>,
}

/// An output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputReport {
    /// Connector type and number.
    pub name: String,
    /// The node of its device; none of one in memory.
    pub device: Option<PathBuf>,
    /// Left and top of it in the space of all outputs.
    pub position: (i32, i32),
    /// Pixels.
    pub size: (i32, i32),
    /// Thousandths of a hertz.
    pub refresh: i32,
    /// It shows something.
    pub on: bool,
    /// What its display can be driven with.
    pub modes: Vec<ModeReport>,
}

/// A mode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModeReport {
    /// Pixels.
    pub size: (u32, u32),
    /// Thousandths of a hertz.
    pub refresh: u64,
    /// The display likes it best.
    pub preferred: bool,
    /// It is driven with this.
    pub current: bool,
}

/// Thousandths of a hertz.
fn millihertz(mode: &Mode) -> u64 {
    let nanos = mode.refresh_interval().as_nanos().max(1);
    u64::try_from(1_000_000_000_000u128 / nanos).unwrap_or(u64::MAX)
}

/// The mode that a text means; the fastest of a size without a rate.
///
/// # Errors
/// What is wrong with it.
fn find(modes: &[Mode], text: &str) -> Result<Mode, String> {
    if text == "preferred" {
        let favourite = modes.iter().find(|mode| mode.is_preferred()).or(modes.first());
        return favourite.copied().ok_or_else(|| "the display has no modes".to_owned());
    }
    let unknown = || format!("`{text}` is not WIDTHxHEIGHT, WIDTHxHEIGHT@HERTZ or `preferred`");
    let (size, rate) = text.split_once('@').map_or((text, None), |(size, rate)| (size, Some(rate)));
    let (width, height) = size.split_once('x').ok_or_else(unknown)?;
    let size: (u32, u32) = (width.parse().map_err(|_| unknown())?, height.parse().map_err(|_| unknown())?);
    let rate: Option<f64> =
        rate.map(|rate| rate.trim_end_matches("Hz").parse()).transpose().map_err(|_| unknown())?;
    let sized = || modes.iter().filter(|mode| mode.size() == size);
    let found = match rate {
        None => sized().max_by_key(|mode| (mode.is_preferred(), millihertz(mode))),
        Some(rate) => {
            let off = |mode: &&Mode| (millihertz(mode) as f64 - rate * 1000.0).abs();
            // Rates are written rounded: 60 is also 59.94.
            sized().filter(|mode| off(mode) < 500.0).min_by(|a, b| off(a).total_cmp(&off(b)))
        }
    };
    found.copied().ok_or_else(|| {
        let list: Vec<String> = modes.iter().map(|mode| mode_text(mode.size(), millihertz(mode))).collect();
        format!("the display has no mode {text}; it has {}", list.join(", "))
    })
}

fn mode_text((width, height): (u32, u32), millihertz: u64) -> String {
    format!("{width}x{height}@{:.2}", millihertz as f64 / 1000.0)
}

/// Does what is asked of an output.
///
/// # Errors
/// Why not, for people; nothing has changed then.
pub fn set(state: &mut State, wish: &Wish) -> Result<(), String> {
    let named = |o: &&crate::state::OutputEntry| o.state.output.name() == wish.name;
    let id = state.outputs.iter().find(named).map(|o| o.state.id).ok_or_else(|| {
        let all: Vec<String> = state.outputs.iter().map(|o| o.state.output.name()).collect();
        format!("there is no output {}; there are: {}", wish.name, all.join(", "))
    })?;
    if let Some(text) = &wish.mode {
        set_mode(state, id, text)?;
    }
    match wish.power {
        Some(on) => {
            let done = state.set_power(id, on);
            done.map_err(|errno| {
                format!("the driver does not turn it {}: {errno}", if on { "on" } else { "off" })
            })
        }
        None => Ok(()),
    }
}

fn set_mode(state: &mut State, id: OutputId, text: &str) -> Result<(), String> {
    let kms = state.backend.kms().ok_or("an output in memory has one size")?;
    if !kms.is_active() {
        return Err("the session is not active".to_owned());
    }
    let mode = find(&kms.modes(id), text)?;
    if kms.mode(id).is_some_and(|now| now.is_like(&mode)) {
        return Ok(());
    }
    let name = mode_text(mode.size(), millihertz(&mode));
    kms.set_mode(id, mode).map_err(|errno| format!("the driver refuses {name}: {errno}"))?;
    tracing::info!(output = id, mode = name, "mode changed");
    state.mode_changed(id);
    Ok(())
}

/// Collects the report.
pub fn outputs(state: &mut State) -> OutputsReport {
    let mut report = OutputsReport { outputs: Vec::new(), unlit: Vec::new() };
    for entry in &state.outputs {
        let output = &entry.state;
        let kms = state.backend.kms();
        let now = kms.as_ref().and_then(|kms| kms.mode(output.id));
        let modes = kms.as_ref().map(|kms| kms.modes(output.id)).unwrap_or_default();
        let modes = modes.iter().map(|mode| ModeReport {
            size: mode.size(),
            refresh: millihertz(mode),
            preferred: mode.is_preferred(),
            current: now.is_some_and(|now| now.is_like(mode)),
        });
        report.outputs.push(OutputReport {
            name: output.output.name(),
            device: kms.as_ref().and_then(|kms| Some(kms.node_of(output.id)?.to_path_buf())),
            position: (output.position.x, output.position.y),
            size: (output.size.w, output.size.h),
            refresh: output.output.current_mode().map_or(0, |mode| mode.refresh),
            on: !output.is_off(),
            modes: modes.collect(),
        });
    }
    if let Some(kms) = state.backend.kms() {
        report.unlit = kms.unlit();
    }
    report
}

/// For people.
pub fn show(report: &OutputsReport) -> String {
    let mut text = String::new();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for output in &report.outputs {
        let state = if output.on { "on" } else { "off" };
        let device =
            output.device.as_ref().map_or_else(|| "memory".to_owned(), |node| node.display().to_string());
        let refresh = u64::try_from(output.refresh).unwrap_or(0);
        let size = (output.size.0.unsigned_abs(), output.size.1.unsigned_abs());
        rows.push(vec![
            output.name.clone(),
            state.to_owned(),
            mode_text(size, refresh),
            format!("at {},{}", output.position.0, output.position.1),
            device,
        ]);
        for mode in &output.modes {
            let marks = [(mode.current, "current"), (mode.preferred, "preferred")];
            let marks: Vec<&str> = marks.iter().filter(|(is, _)| *is).map(|(_, mark)| *mark).collect();
            rows.push(vec![
                String::new(),
                String::new(),
                mode_text(mode.size, mode.refresh),
                marks.join(", "),
            ]);
        }
    }
    text.push_str(&lay_out(&rows));
    for name in &report.unlit {
        text.push_str(&format!("{name}  connected, and not driven: no CRTC is left for it\n"));
    }
    if report.outputs.is_empty() && report.unlit.is_empty() {
        text.push_str("no output\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(width: u16, height: u16, clock: u32, preferred: bool) -> Mode {
        Mode {
            clock,
            horizontal: [width, width, width, 1000, 0],
            vertical: [height, height, height, 1000, 0],
            kind: u32::from(preferred) << 3,
            ..Mode::default()
        }
    }

    #[test]
    fn modes_are_found_by_what_people_write() {
        let modes = [
            mode(800, 600, 75_000, false),
            mode(1024, 768, 60_000, true),
            mode(800, 600, 59_940, false),
            mode(1024, 768, 85_000, false),
        ];
        let refresh = |text: &str| find(&modes, text).map(|mode| mode.clock);
        assert_eq!(refresh("800x600"), Ok(75_000), "the fastest");
        assert_eq!(refresh("1024x768"), Ok(60_000), "the favourite before the fastest");
        assert_eq!(refresh("800x600@60"), Ok(59_940));
        assert_eq!(refresh("800x600@59.94Hz"), Ok(59_940));
        assert_eq!(refresh("preferred"), Ok(60_000));
        for bad in ["", "800", "800x", "x600", "800x600@", "800x600@fast", "-1x600", "800x600@NaN"] {
            assert!(refresh(bad).is_err(), "{bad}");
        }
        assert!(refresh("800x600@60.7").unwrap_err().contains("it has 800x600@75.00, 1024x768@60.00"));
        assert!(find(&[], "preferred").is_err());
    }
}
