//! What a display device does with everybody's memory: for each format and exporter, whether the import, `ADDFB2` and a
//! `TEST_ONLY` commit work, as a table or (`--json`) for programs. It shows nothing and leaves the display alone.
//!
//! `probe [--json] [--all] [/dev/dri/cardN]`: without a node the first card with a display; `--all` for every format
//! that drm-prime knows instead of those that the planes list.

#[path = "probe/display.rs"]
mod display;

use std::{
    collections::BTreeSet,
    error::Error,
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use display::{Card, Output, Plane};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::{
    BufferPlane, Dmabuf, Fault, FormatInfo, Framebuffer, FramebufferError, HandleTable, ImportError,
    KernelDevice, device::kernel::driver_name, exporting as memory, format,
};
use rustix::io::Errno;
use serde_json::{Value, json};

/// A format that has a name and a known layout.
type Known = (DrmFourcc, &'static FormatInfo);

/// Rows by format, cells by exporter.
type Matrix = Vec<(String, Vec<Cell>)>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("probe: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut as_json, mut all, mut node) = (false, false, None);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => as_json = true,
            "--all" => all = true,
            path if !path.starts_with('-') && node.is_none() => node = Some(PathBuf::from(path)),
            other => {
                return Err(format!("unknown argument {other}\nusage: probe [--json] [--all] [NODE]").into());
            }
        }
    }
    let node = node.map_or_else(first_display, Ok)?;
    let card = open(&node)?;
    let driver = driver_name(card.as_fd())?;
    let device = KernelDevice::acquire(card.as_fd(), Some(&node))?;
    let acquisition = format!("{:?}", device.acquisition());
    let table = HandleTable::new(Arc::new(device));
    let output =
        Output::find(&card, &table).map_err(|err| format!("{}: no planes: {err}", node.display()))?;
    let output = output.as_ref().ok_or_else(|| format!("{}: nothing is connected", node.display()))?;
    let size = output.size();
    let formats = formats(&output.planes, all);
    let most = formats.iter().map(|(_, format)| Layout::of(format, size).bytes).max().unwrap_or(0);
    let exporters = memory::exporters(&table, &node, most.next_multiple_of(4096));
    let probe = |format: &Known| {
        let cell = |exporter: &memory::Exporter| match &exporter.memory {
            Ok(memory) => Cell::probe(&table, output, *format, memory.as_fd()),
            Err(err) => Cell::refused(format!("no memory: {err}")),
        };
        (format::name(format.1.fourcc), exporters.iter().map(cell).collect())
    };
    let matrix: Matrix = formats.iter().map(probe).collect();
    let text = if as_json {
        let about = json!({
            "node": node, "driver": driver, "file": acquisition, "modifiers": table.device().supports_modifiers(),
            "size": [size.0, size.1], "planes": output.planes.len(),
        });
        format!("{:#}\n", to_json(about, &exporters, &matrix))
    } else {
        let (width, height) = size;
        let modifiers = if table.device().supports_modifiers() { "with" } else { "without" };
        format!(
            "{}: {driver}, {width}x{height}, {} planes, framebuffers {modifiers} modifiers\nPRIME file: {acquisition}\n{}",
            node.display(),
            output.planes.len(),
            to_table(&exporters, &matrix)
        )
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// The first card that drives a display.
fn first_display() -> Result<PathBuf, Box<dyn Error>> {
    let cards = memory::nodes("/dev/dri", "card");
    if cards.is_empty() {
        return Err("no DRM device here: /dev/dri has no card".into());
    }
    let mut closed = None;
    for node in cards {
        match open(&node) {
            Ok(card)
                if drm::control::Device::resource_handles(&card).is_ok_and(|all| !all.crtcs().is_empty()) =>
            {
                return Ok(node);
            }
            Ok(_) => {}
            Err(err) => closed = Some(err),
        }
    }
    Err(closed.unwrap_or_else(|| "no card here has a display; name one to see why".into()))
}

/// Opens a node and makes sure that it is a DRM device.
fn open(node: &Path) -> Result<Card, Box<dyn Error>> {
    let shown = node.display();
    let file = File::options().read(true).write(true).open(node).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => format!("{shown}: no such device"),
        io::ErrorKind::PermissionDenied => {
            format!("{shown}: permission denied; card nodes belong to the session's user and the group video")
        }
        _ => format!("{shown}: {err}"),
    })?;
    driver_name(file.as_fd()).map_err(|err| format!("{shown} is no DRM device: {err}"))?;
    Ok(Card(file))
}

/// The formats to ask about, by name: those of the planes and the commonest, or all.
fn formats(planes: &[Plane], all: bool) -> Vec<Known> {
    let common =
        [DrmFourcc::Xrgb8888, DrmFourcc::Nv12, DrmFourcc::P010, DrmFourcc::Xrgb2101010, DrmFourcc::Yuyv];
    let listed: BTreeSet<u32> = planes.iter().flat_map(|plane| plane.formats.iter().copied()).collect();
    let wanted = |code| all || common.contains(&code) || listed.contains(&(code as u32));
    // What DrmFourcc does not name cannot be asked for.
    let named = format::all().iter().filter_map(|info| Some((DrmFourcc::try_from(info.fourcc).ok()?, info)));
    named.filter(|(code, _)| wanted(*code)).collect()
}

/// A linear picture of a format, its planes one after the other.
struct Layout {
    planes: Vec<(u32, u32)>,
    bytes: u64,
}

impl Layout {
    fn of(format: &FormatInfo, (width, height): (u32, u32)) -> Self {
        let (mut planes, mut bytes) = (Vec::new(), 0);
        for plane in 0..format.plane_count() {
            let stride = format.min_stride(plane, width).next_multiple_of(64);
            planes
                .push((u32::try_from(bytes).unwrap_or(u32::MAX), u32::try_from(stride).unwrap_or(u32::MAX)));
            bytes += (stride * format.plane_rows(plane, height)).next_multiple_of(64);
        }
        Self { planes, bytes }
    }
}

/// What became of one format in one exporter's memory; a step after a failed one is not tried.
struct Cell {
    import: Result<(), String>,
    add: Option<Result<(), String>>,
    /// Of the planes that list the format.
    tests: Option<Vec<(u32, Result<(), String>)>>,
}

impl Cell {
    fn refused(import: String) -> Self {
        Self { import: Err(import), add: None, tests: None }
    }

    fn probe(table: &HandleTable, output: &Output<'_>, format: Known, memory: BorrowedFd<'_>) -> Self {
        let mut cell = Self { import: Ok(()), add: None, tests: None };
        match framebuffer(table, format, output.size(), memory) {
            Ok(framebuffer) => {
                cell.add = Some(Ok(()));
                let listing = output.planes.iter().filter(|plane| plane.formats.contains(&(format.0 as u32)));
                let test = |plane: &Plane| {
                    let outcome = output.test(plane, &framebuffer).map_err(|err| reason(&err));
                    (u32::from(plane.handle), outcome)
                };
                cell.tests = Some(listing.map(test).collect());
            }
            Err(FramebufferError::Import { source, .. }) => cell.import = Err(import_reason(&source)),
            Err(FramebufferError::Refused { source, .. } | FramebufferError::System { source, .. }) => {
                cell.add = Some(Err(reason(&source)));
            }
            Err(other) => cell.add = Some(Err(other.to_string())),
        }
        cell
    }

    /// `ok ok 5/6`: import, `ADDFB2`, planes that would show it of those that list the format.
    fn text(&self) -> String {
        let step = |step: &Result<(), String>| step.as_ref().map_or_else(Clone::clone, |()| "ok".to_owned());
        let Some(add) = &self.add else { return step(&self.import) };
        let Some(tests) = &self.tests else { return format!("ok {}", step(add)) };
        let good = tests.iter().filter(|(_, outcome)| outcome.is_ok()).count();
        match tests.iter().find_map(|(_, outcome)| outcome.as_ref().err()) {
            None if tests.is_empty() => "ok ok -".to_owned(),
            Some(err) if good == 0 => format!("ok ok {err}"),
            _ => format!("ok ok {good}/{}", tests.len()),
        }
    }

    fn json(&self) -> Value {
        let step = |step: &Result<(), String>| step.as_ref().map_or_else(|err| json!(err), |()| json!("ok"));
        let tests = self.tests.as_ref().map(|tests| {
            tests
                .iter()
                .map(|(plane, outcome)| json!({"plane": plane, "result": step(outcome)}))
                .collect::<Vec<_>>()
        });
        json!({"import": step(&self.import), "addfb2": self.add.as_ref().map(step), "test": tests})
    }
}

fn framebuffer(
    table: &HandleTable,
    (code, format): Known,
    (width, height): (u32, u32),
    fd: BorrowedFd<'_>,
) -> Result<Framebuffer, FramebufferError> {
    let layout = Layout::of(format, (width, height)).planes;
    let planes: Vec<_> =
        layout.into_iter().map(|(offset, stride)| BufferPlane { fd, offset, stride }).collect();
    let buffer = Dmabuf::new(width, height, code, DrmModifier::Linear, &planes)?;
    Framebuffer::new(table, &buffer, false)
}

fn import_reason(error: &ImportError) -> String {
    let source = match error {
        ImportError::NotDmabuf { source }
        | ImportError::NotImportable { source, .. }
        | ImportError::System { source, .. } => source,
    };
    if error.fault() == Fault::System { format!("{} (system)", reason(source)) } else { reason(source) }
}

/// The errno's name, as in errno.h, for those that these calls give.
fn reason(err: &io::Error) -> String {
    const NAMES: &[(Errno, &str)] = &[
        (Errno::INVAL, "EINVAL"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::RANGE, "ERANGE"),
        (Errno::ACCESS, "EACCES"),
        (Errno::PERM, "EPERM"),
        (Errno::BUSY, "EBUSY"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::MFILE, "EMFILE"),
    ];
    let named = NAMES.iter().find(|(errno, _)| Some(errno.raw_os_error()) == err.raw_os_error());
    named.map_or_else(|| err.to_string(), |(_, name)| (*name).to_owned())
}

fn to_json(about: Value, exporters: &[memory::Exporter], matrix: &Matrix) -> Value {
    let names: Vec<_> =
        exporters.iter().map(|exporter| json!({"name": exporter.name, "node": exporter.node})).collect();
    let rows = matrix.iter().map(|(format, cells)| {
        let cells = exporters.iter().zip(cells).map(|(exporter, cell)| (exporter.name.clone(), cell.json()));
        (format.clone(), Value::Object(cells.collect()))
    });
    json!({"device": about, "exporters": names, "formats": Value::Object(rows.collect())})
}

fn to_table(exporters: &[memory::Exporter], matrix: &Matrix) -> String {
    let mut table = vec![vec![String::new()]];
    table[0].extend(exporters.iter().map(|exporter| exporter.name.clone()));
    for (format, cells) in matrix {
        let mut row = vec![format.clone()];
        row.extend(cells.iter().map(Cell::text));
        table.push(row);
    }
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<_> = (0..=exporters.len()).map(width).collect();
    let mut text =
        "Each cell: import, ADDFB2, and how many of the planes that list the format would show it \
                    (TEST_ONLY; EACCES if somebody else is master).\n\n"
            .to_owned();
    for row in &table {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
