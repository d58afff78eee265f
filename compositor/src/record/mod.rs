//! Recordings of what the planner was asked and what the driver said: `--record FILE`, and `primeway replay FILE`.
//!
//! It owns the format and the writing. A recording has no titles, no pictures and no names of programs: of a surface its
//! place, size, format and how often it changes. It is made with access for its owner alone, and ends by itself at
//! [`LARGEST`] bytes, or when it cannot be written; the session goes on.
//!
//! # Format
//!
//! JSON, a line each, in the order of what happened. The first line is the head, `planes` come again when they change.
//!
//! | line | says |
//! |---|---|
//! | `head` | the version of the format, who wrote it, and the driver |
//! | `planes` | the planes that an output can use |
//! | `scene` | what was to be shown, each question to the driver with its answer, and the plan that came of it |
//! | `refused` | the driver refused the commit of the last plan, and the plan instead |

pub mod against;
pub mod replay;

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::num::NonZeroU32;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use drm_prime::scanout::{
    Canvas, Layer, Plan, PlaneCaps, PlaneSetting, Pointer, PrimaryContent, Rect, Scene,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes at which a recording ends.
pub const LARGEST: u64 = 64 << 20;

/// A line of a recording.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first one.
    Head {
        /// [`VERSION`].
        version: u32,
        /// Who wrote it.
        by: String,
        /// The display's driver.
        driver: String,
    },
    /// The planes that an output can use from now on.
    Planes {
        /// Its name.
        output: String,
        /// The planes.
        planes: Vec<PlaneCaps>,
    },
    /// A plan was made.
    Scene(Box<SceneLine>),
    /// The driver refused the commit of the last plan.
    Refused {
        /// On this output.
        output: String,
        /// Nanoseconds of CLOCK_MONOTONIC.
        now: u64,
        /// With this.
        errno: i32,
        /// The plan instead.
        plan: Outcome,
    },
}

/// What was to be shown, and the plan that was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SceneLine {
    /// On this output.
    pub output: String,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub now: u64,
    /// Everything before was forgotten: somebody else was master.
    #[serde(default)]
    pub forget: bool,
    /// The output's pixels.
    pub size: Rect,
    /// What composition draws into.
    pub canvas: Canvas,
    /// Nothing needs to be drawn where no layer is.
    pub crtc_shows_backdrop: bool,
    /// Overlays may be used.
    pub overlays: bool,
    /// The layers, topmost first.
    pub layers: Vec<Layer>,
    /// The pointer.
    pub pointer: Option<Pointer>,
    /// The questions, in order.
    pub asked: Vec<Ask>,
    /// The plan.
    pub plan: Outcome,
}

/// A question to the driver, and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// About what.
    pub plan: Assigned,
    /// `None` if it accepts.
    pub errno: Option<i32>,
}

/// What a plan puts where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assigned {
    /// Of each layer its plane.
    pub planes: Vec<Option<NonZeroU32>>,
    /// What the primary plane shows.
    pub primary: PrimaryContent,
    /// The pointer's plane.
    pub pointer: Option<NonZeroU32>,
    /// The layers below the primary.
    pub underlays: Vec<usize>,
    /// The part of the output that the composited picture covers, if it is not all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Rect>,
    /// What is set on each plane.
    pub settings: Vec<PlaneSetting>,
}

impl Assigned {
    /// What a plan puts where.
    pub fn of(plan: &Plan) -> Self {
        Self {
            planes: plan.planes.clone(),
            primary: plan.primary,
            pointer: plan.pointer,
            underlays: plan.underlays.clone(),
            part: plan.part,
            settings: plan.settings.clone(),
        }
    }
}

/// A plan with its reasons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What it puts where.
    #[serde(flatten)]
    pub assigned: Assigned,
    /// Layer, plane, reason.
    pub refusals: Vec<(usize, NonZeroU32, String)>,
    /// Plane, reason.
    pub pointer_refusals: Vec<(NonZeroU32, String)>,
}

impl Outcome {
    /// A plan with its reasons.
    pub fn of(plan: &Plan) -> Self {
        Self {
            assigned: Assigned::of(plan),
            refusals: plan
                .refusals
                .iter()
                .map(|(layer, plane, why)| (*layer, *plane, why.to_string()))
                .collect(),
            pointer_refusals: plan
                .pointer_refusals
                .iter()
                .map(|(plane, why)| (*plane, why.to_string()))
                .collect(),
        }
    }
}

/// Writes a recording. Clones write the same one.
#[derive(Clone, Debug)]
pub struct Recorder(Rc<RefCell<Recording>>);

#[derive(Debug)]
struct Recording {
    /// `None` once it has ended.
    file: Option<BufWriter<File>>,
    left: u64,
    /// Of each output the planes that were written last.
    planes: Vec<(String, Vec<PlaneCaps>)>,
}

impl Recorder {
    /// Begins a recording, in place of what is in the file.
    ///
    /// # Errors
    /// When the file cannot be made, or is no regular one.
    pub fn create(path: &Path, driver: &str) -> io::Result<Self> {
        Self::with_room(path, driver, LARGEST)
    }

    fn with_room(path: &Path, driver: &str, left: u64) -> io::Result<Self> {
        // A pipe without a reader would block for ever.
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW).bits();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(flags.cast_signed())
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        // Also where it was there before.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        let recording = Recording { file: Some(BufWriter::new(file)), left, planes: Vec::new() };
        let recorder = Self(Rc::new(RefCell::new(recording)));
        let by = concat!("primeway ", env!("CARGO_PKG_VERSION")).to_owned();
        recorder.0.borrow_mut().write(&Line::Head { version: VERSION, by, driver: driver.to_owned() });
        Ok(recorder)
    }

    /// A plan was made.
    pub fn planned(
        &self,
        output: &str,
        now: Duration,
        forget: bool,
        scene: &Scene<'_>,
        asked: Vec<Ask>,
        plan: &Plan,
    ) {
        let mut recording = self.0.borrow_mut();
        recording.planes(output, scene.planes);
        recording.write(&Line::Scene(Box::new(SceneLine {
            output: output.to_owned(),
            now: nanos(now),
            forget,
            size: scene.output,
            canvas: scene.canvas,
            crtc_shows_backdrop: scene.crtc_shows_backdrop,
            overlays: scene.overlays,
            layers: scene.layers.to_vec(),
            pointer: scene.pointer.cloned(),
            asked,
            plan: Outcome::of(plan),
        })));
    }

    /// The driver refused the commit of the last plan.
    pub fn refused(&self, output: &str, now: Duration, errno: Errno, plan: &Plan) {
        self.0.borrow_mut().write(&Line::Refused {
            output: output.to_owned(),
            now: nanos(now),
            errno: errno.raw_os_error(),
            plan: Outcome::of(plan),
        });
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Recording {
    fn planes(&mut self, output: &str, planes: &[PlaneCaps]) {
        let known = self.planes.iter_mut().find(|(name, _)| name == output);
        match known {
            Some((_, known)) if known == planes => return,
            Some((_, known)) => *known = planes.to_vec(),
            None => self.planes.push((output.to_owned(), planes.to_vec())),
        }
        self.write(&Line::Planes { output: output.to_owned(), planes: planes.to_vec() });
    }

    fn write(&mut self, line: &Line) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut text| {
            text.push(b'\n');
            if text.len() as u64 > self.left {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "it is as long as recordings may be",
                ));
            }
            self.left -= text.len() as u64;
            // A plan is seldom made: whoever looks, or comes after a crash, finds all of them.
            file.write_all(&text).and_then(|()| file.flush())
        });
        if let Err(err) = written {
            tracing::warn!(%err, "the recording ends");
            // What is left in memory is not tried again.
            if let Some(file) = self.file.take() {
                let (_file, _rest) = file.into_parts();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("primeway-record-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn plan(recorder: &Recorder, layers: &[Layer]) {
        let scene = Scene::new(&[], layers, Rect::new(0, 0, 64, 64));
        let plan = Plan::composite_all(layers, scene.output);
        recorder.planned("Virtual-1", Duration::from_secs(1), false, &scene, Vec::new(), &plan);
    }

    #[test]
    fn it_is_its_owners_alone_and_has_whole_lines() {
        let path = folder().join("lines");
        std::fs::write(&path, "something older and longer than what comes").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let recorder = Recorder::create(&path, "vkms").unwrap();
        plan(&recorder, &[]);
        plan(&recorder, &[]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // Without planes there are none to tell of twice.
        let [Line::Head { version: VERSION, .. }, Line::Planes { .. }, Line::Scene(_), Line::Scene(_)] =
            &lines[..]
        else {
            panic!("{lines:?}");
        };
    }

    #[test]
    fn it_ends_at_its_length_and_when_it_cannot_be_written() {
        let path = folder().join("bounded");
        let recorder = Recorder::with_room(&path, "vkms", 600).unwrap();
        (0..50).for_each(|_| plan(&recorder, &[]));
        let length = std::fs::metadata(&path).unwrap().len();
        assert!((100..=600).contains(&length), "{length}");
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("}\n"), "no half line");
        assert!(recorder.0.borrow().file.is_none());
        // No regular file.
        assert!(Recorder::create(Path::new("/dev/null"), "vkms").is_err());
        // Every write fails, as on a full disk.
        let full = File::open(&path).unwrap();
        recorder.0.borrow_mut().file = Some(BufWriter::new(full));
        recorder.0.borrow_mut().left = LARGEST;
        plan(&recorder, &[]);
        assert!(recorder.0.borrow().file.is_none(), "it has ended");
        plan(&recorder, &[]);
    }
}
