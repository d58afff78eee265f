//! Feedback: the format table in a file, tranches of preference, and sending both to a feedback object.
//!
//! Owns: [`FormatTable`], [`DmabufFeedback`] and its builder, the order of the events. Does not own: which
//! feedback a surface gets, nor when (`state`).
//!
//! ```text
//!  FormatTable (one sealed memfd)      DmabufFeedback                     events
//!  0  XR24 LINEAR                      main device 226:128
//!  1  XR24 INVALID     <- indices -    tranche 226:0 scanout  [0, 2]      format_table, when it is another one
//!  2  NV12 LINEAR                      tranche 226:128 sampling [0, 1, 2] main_device (to version 5),
//!                                                                         tranches, done
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_dmabuf_feedback_v1::{
    TrancheFlags, ZwpLinuxDmabufFeedbackV1,
};
use wayland_server::Resource;

use super::DmabufFormat;

/// First version that knows the sampling flag and gets no `main_device`.
const SAMPLING_SINCE: u32 = 6;
/// Bytes of one entry of the table: fourcc, padding, modifier.
const ENTRY_SIZE: usize = 16;
/// Indices per `tranche_formats` event: a Wayland message has at most 4096 bytes.
const INDICES_PER_EVENT: usize = 1024;

/// A file with format + modifier pairs, which clients map.
///
/// The file is a memfd sealed against every change, so one file serves all clients and all feedback objects.
#[derive(Debug)]
pub struct FormatTable {
    fd: OwnedFd,
    size: u32,
    entries: Vec<DmabufFormat>,
    index: HashMap<DmabufFormat, u16>,
}

impl FormatTable {
    fn new(formats: impl IntoIterator<Item = DmabufFormat>) -> io::Result<Self> {
        let mut entries = Vec::new();
        let mut index = HashMap::new();
        for format in formats {
            if index.contains_key(&format) {
                continue;
            }
            let next = u16::try_from(entries.len())
                .map_err(|_| invalid("more format and modifier pairs than 16-bit indices"))?;
            index.insert(format, next);
            entries.push(format);
        }
        let mut bytes = Vec::with_capacity(entries.len() * ENTRY_SIZE);
        for format in &entries {
            bytes.extend_from_slice(&format.fourcc.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&format.modifier.to_ne_bytes());
        }
        let size = u32::try_from(bytes.len()).map_err(|_| invalid("the format table is too big"))?;
        let fd = memfd_create("linux-dmabuf-formats", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = std::fs::File::from(fd);
        io::Write::write_all(&mut file, &bytes)?;
        let fd = OwnedFd::from(file);
        fcntl_add_seals(&fd, SealFlags::GROW | SealFlags::SHRINK | SealFlags::WRITE | SealFlags::SEAL)?;
        Ok(Self { fd, size, entries, index })
    }

    /// The pairs, in the order of their index.
    pub fn entries(&self) -> &[DmabufFormat] {
        &self.entries
    }

    fn contains_all(&self, formats: &HashSet<DmabufFormat>) -> bool {
        formats.iter().all(|format| self.index.contains_key(format))
    }
}

impl AsFd for FormatTable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What clients are told about devices and formats. Cheap to clone.
///
/// Two are equal when a client would learn the same from them, whichever table file they point into.
#[derive(Debug, Clone)]
pub struct DmabufFeedback(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    main_device: u64,
    table: Arc<FormatTable>,
    tranches: Vec<Tranche>,
    /// The tranches as versions 4 and 5 see them: without the sampling flag.
    sent_before_sampling: Vec<SentTranche>,
    sent: Vec<SentTranche>,
}

/// Formats that are equally preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tranche {
    /// The device that buffers should suit, a `dev_t`.
    pub target_device: u64,
    /// What it does with them.
    pub flags: TrancheFlags,
    /// What it takes, each pair once.
    pub formats: Vec<DmabufFormat>,
}

#[derive(Debug)]
struct SentTranche {
    target_device: u64,
    flags: TrancheFlags,
    /// Payloads of the `tranche_formats` events.
    indices: Vec<Vec<u8>>,
}

impl PartialEq for DmabufFeedback {
    fn eq(&self, other: &Self) -> bool {
        let key = |tranche: &Tranche| {
            let formats: BTreeSet<_> = tranche.formats.iter().map(|f| (f.fourcc, f.modifier)).collect();
            (tranche.target_device, tranche.flags.bits(), formats)
        };
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.main_device == other.0.main_device
                && self.0.tranches.len() == other.0.tranches.len()
                && self.0.tranches.iter().zip(&other.0.tranches).all(|(a, b)| key(a) == key(b)))
    }
}

impl Eq for DmabufFeedback {}

impl DmabufFeedback {
    /// The main device, a `dev_t`.
    pub fn main_device(&self) -> u64 {
        self.0.main_device
    }

    /// Every pair that some tranche holds, each once per tranche.
    pub fn formats(&self) -> impl Iterator<Item = DmabufFormat> + '_ {
        self.0.tranches.iter().flat_map(|tranche| tranche.formats.iter().copied())
    }

    /// The tranches, most preferred first, as version 6 sees them.
    pub fn tranches(&self) -> &[Tranche] {
        &self.0.tranches
    }

    /// The table that the indices point into.
    pub fn table(&self) -> &Arc<FormatTable> {
        &self.0.table
    }

    /// Sends all parameters to `object`, and the table if `last_table` is not the one it has.
    ///
    /// The table is not part of the parameters that have to be sent again; a client that never reads its
    /// feedback would collect an fd each time.
    pub(crate) fn send(&self, object: &ZwpLinuxDmabufFeedbackV1, last_table: &mut Option<Arc<FormatTable>>) {
        let table = &self.0.table;
        if !last_table.as_ref().is_some_and(|last| last.entries == table.entries) {
            object.format_table(table.as_fd(), table.size);
            *last_table = Some(table.clone());
        }
        let tranches = if object.version() >= SAMPLING_SINCE {
            &self.0.sent
        } else {
            object.main_device(self.0.main_device.to_ne_bytes().to_vec());
            &self.0.sent_before_sampling
        };
        for tranche in tranches {
            object.tranche_target_device(tranche.target_device.to_ne_bytes().to_vec());
            object.tranche_flags(tranche.flags);
            for indices in &tranche.indices {
                object.tranche_formats(indices.clone());
            }
            object.tranche_done();
        }
        object.done();
    }
}

/// Builds a [`DmabufFeedback`].
///
/// The last tranche is the main device's with the formats given to [`new`](Self::new) and the sampling flag: what
/// the compositor can always take. Tranches added before it are preferred, in the order of their addition.
#[derive(Debug)]
pub struct DmabufFeedbackBuilder {
    main_device: u64,
    formats: Vec<DmabufFormat>,
    tranches: Vec<Tranche>,
    table: Option<Arc<FormatTable>>,
}

impl DmabufFeedbackBuilder {
    /// Starts feedback with the main device, a `dev_t`, and what it can sample from.
    pub fn new(main_device: u64, formats: impl IntoIterator<Item = DmabufFormat>) -> Self {
        Self { main_device, formats: formats.into_iter().collect(), tranches: Vec::new(), table: None }
    }

    /// Adds a tranche, less preferred than those added before it.
    ///
    /// `flags` has at least one flag (a rule of version 6); clients of older versions see only the scanout flag. A
    /// tranche without formats is left out.
    #[must_use]
    pub fn add_tranche(
        mut self,
        target_device: u64,
        flags: TrancheFlags,
        formats: impl IntoIterator<Item = DmabufFormat>,
    ) -> Self {
        self.tranches.push(Tranche { target_device, flags, formats: formats.into_iter().collect() });
        self
    }

    /// Points into the table of `other` if that holds every pair, so that both share one file.
    #[must_use]
    pub fn share_table(mut self, other: &DmabufFeedback) -> Self {
        self.table = Some(other.0.table.clone());
        self
    }

    /// Builds the feedback.
    ///
    /// # Errors
    ///
    /// `InvalidInput` when the main device has no format, a tranche no flag, or the table more than 65536 pairs;
    /// otherwise what creating, writing and sealing the table file gave.
    pub fn build(self) -> io::Result<DmabufFeedback> {
        let Self { main_device, formats, mut tranches, table } = self;
        if formats.is_empty() {
            return Err(invalid("the main device has no format"));
        }
        if tranches.iter().any(|tranche| tranche.flags.is_empty()) {
            return Err(invalid("a tranche has no flag"));
        }
        tranches.push(Tranche { target_device: main_device, flags: TrancheFlags::Sampling, formats });
        let all: HashSet<DmabufFormat> =
            tranches.iter().flat_map(|tranche| tranche.formats.iter().copied()).collect();
        let table = match table {
            Some(table) if table.contains_all(&all) => table,
            _ => Arc::new(FormatTable::new(
                tranches.iter().rev().flat_map(|tranche| tranche.formats.iter().copied()),
            )?),
        };
        let tranches = without_duplicates(tranches, TrancheFlags::all());
        let scanout_only = without_duplicates(tranches.clone(), TrancheFlags::Scanout);
        Ok(DmabufFeedback(Arc::new(Inner {
            main_device,
            sent_before_sampling: to_send(&scanout_only, &table),
            sent: to_send(&tranches, &table),
            tranches,
            table,
        })))
    }
}

/// Masks the flags and drops pairs that an earlier tranche with the same device and flags already has.
fn without_duplicates(tranches: Vec<Tranche>, mask: TrancheFlags) -> Vec<Tranche> {
    let mut seen = HashSet::new();
    tranches
        .into_iter()
        .map(|mut tranche| {
            tranche.flags &= mask;
            let (device, flags) = (tranche.target_device, tranche.flags.bits());
            tranche.formats.retain(|format| seen.insert((device, flags, *format)));
            tranche
        })
        .filter(|tranche| !tranche.formats.is_empty())
        .collect()
}

fn to_send(tranches: &[Tranche], table: &FormatTable) -> Vec<SentTranche> {
    tranches
        .iter()
        .map(|tranche| {
            let indices: Vec<u16> =
                tranche.formats.iter().filter_map(|format| table.index.get(format).copied()).collect();
            SentTranche {
                target_device: tranche.target_device,
                flags: tranche.flags,
                indices: indices
                    .chunks(INDICES_PER_EVENT)
                    .map(|chunk| chunk.iter().flat_map(|index| index.to_ne_bytes()).collect())
                    .collect(),
            }
        })
        .collect()
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
