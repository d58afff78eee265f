//! What a device does with everybody's memory: for some formats and each exporter, whether the import and `ADDFB2` work. An
//! example of the crate's way from a file to a framebuffer; it shows nothing and leaves the display alone.
//!
//! `probe [/dev/dri/cardN]`: without a node the first card. Which planes would show it is asked by `primeway probe`.

use std::{
    error::Error,
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::{
    BufferPlane, Dmabuf, Fault, Framebuffer, FramebufferError, HandleTable, ImportError, KernelDevice,
    device::kernel::driver_name, errno_name, exporting, format,
};

const SIZE: (u32, u32) = (256, 256);
/// One of each kind: RGB of 8, 5 and 10 bits, luma and chroma in two buffer planes, in three, and in one.
const FORMATS: [DrmFourcc; 7] = [
    DrmFourcc::Xrgb8888,
    DrmFourcc::Rgb565,
    DrmFourcc::Xrgb2101010,
    DrmFourcc::Nv12,
    DrmFourcc::P010,
    DrmFourcc::Yuv420,
    DrmFourcc::Yuyv,
];

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
    let first = || exporting::nodes("/dev/dri", "card").into_iter().next();
    let node = std::env::args().nth(1).map(PathBuf::from).or_else(first);
    let node = node.ok_or("no DRM device here: /dev/dri has no card")?;
    let card = open(&node)?;
    // Handles of its own, apart from those of whoever else uses the card's file.
    let device = KernelDevice::acquire(card.as_fd(), Some(&node))?;
    println!("{}: {}\nPRIME file: {:?}\n", node.display(), driver_name(card.as_fd())?, device.acquisition());
    let table = HandleTable::new(Arc::new(device));
    let most = FORMATS.iter().map(|format| layout(*format).1).max().unwrap_or(0);
    let exporters = exporting::exporters(&table, &node, most.next_multiple_of(4096));
    let row = |cells: &[String]| {
        let cells: Vec<_> = cells.iter().map(|cell| format!("{cell:<13}")).collect();
        println!("{}", cells.concat().trim_end());
    };
    let names = exporters.iter().map(|exporter| exporter.name.clone());
    row(&[String::new()].into_iter().chain(names).collect::<Vec<_>>());
    for format in FORMATS {
        let cell = |exporter: &exporting::Exporter| match &exporter.memory {
            Ok(memory) => outcome(framebuffer(&table, format, memory.as_fd())),
            Err(err) => format!("no memory: {}", reason(err)),
        };
        let cells = exporters.iter().map(cell);
        row(&[format::name(format as u32)].into_iter().chain(cells).collect::<Vec<_>>());
    }
    Ok(())
}

/// Opens a node and makes sure that it is a DRM device.
fn open(node: &Path) -> Result<File, String> {
    let shown = node.display();
    let file = File::options().read(true).write(true).open(node).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => format!("{shown}: no such device"),
        io::ErrorKind::PermissionDenied => {
            format!("{shown}: permission denied; card nodes belong to the session's user and the group video")
        }
        _ => format!("{shown}: {err}"),
    })?;
    driver_name(file.as_fd()).map_err(|err| format!("{shown} is no DRM device: {err}"))?;
    Ok(file)
}

/// Offset and stride of the buffer planes of a linear picture, one after the other, and how long it is.
fn layout(format: DrmFourcc) -> (Vec<(u32, u32)>, u64) {
    let (mut planes, mut bytes) = (Vec::new(), 0);
    let Some(info) = format::info(format) else { return (planes, bytes) };
    for plane in 0..info.plane_count() {
        let stride = info.min_stride(plane, SIZE.0).next_multiple_of(64);
        planes.push((u32::try_from(bytes).unwrap_or(u32::MAX), u32::try_from(stride).unwrap_or(u32::MAX)));
        bytes += (stride * info.plane_rows(plane, SIZE.1)).next_multiple_of(64);
    }
    (planes, bytes)
}

/// The framebuffer, its handles and its reference on the device all go when it is dropped.
fn framebuffer(
    table: &HandleTable,
    format: DrmFourcc,
    fd: BorrowedFd<'_>,
) -> Result<Framebuffer, FramebufferError> {
    let planes = layout(format).0.into_iter().map(|(offset, stride)| BufferPlane { fd, offset, stride });
    let planes: Vec<_> = planes.collect();
    let buffer = Dmabuf::new(SIZE.0, SIZE.1, format, DrmModifier::Linear, &planes)?;
    Framebuffer::new(table, &buffer, false)
}

/// `ok ok`, or the errno of the step that failed: the import, or `ADDFB2`.
fn outcome(made: Result<Framebuffer, FramebufferError>) -> String {
    match made {
        Ok(_) => "ok ok".to_owned(),
        Err(FramebufferError::Import { source, .. }) => {
            let (ImportError::NotDmabuf { source: errno }
            | ImportError::NotImportable { source: errno, .. }
            | ImportError::System { source: errno, .. }) = &source;
            let whose = if source.fault() == Fault::System { " (system)" } else { "" };
            format!("{}{whose}", reason(errno))
        }
        Err(FramebufferError::Refused { source, .. } | FramebufferError::System { source, .. }) => {
            format!("ok {}", reason(&source))
        }
        Err(other) => other.to_string(),
    }
}

fn reason(err: &io::Error) -> String {
    rustix::io::Errno::from_io_error(err).map_or_else(|| err.to_string(), errno_name)
}
