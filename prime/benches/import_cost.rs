//! What the handle table adds to the import of a new buffer: raw calls and imports through the table in turn, in one run, on
//! one file. Without arguments on the model; with a node on the kernel, `import_cost /dev/dri/cardN`.
//!
//! A batch of buffers that the file does not know is imported and timed, and then closed untimed. The buffers are dumb
//! buffers of a second file of the same node and are foreign to the first, unless the exporter is given as a second node.
//! The output is one line per way: nanoseconds per import (median of the rounds) and the ratio to the raw call, of
//! medians and as the median of each round's ratio.

use std::{
    fs::OpenOptions,
    num::NonZeroU32,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use drm_prime::{
    Clock, DmabufStat, DumbBuffer, GemDevice, GemHandle, HandleTable, KernelDevice, ToldClock,
    model::{Driver, Machine, Node, Profile},
};

const BATCH: usize = 64;
const ROUNDS: usize = 400;

type Error = Box<dyn std::error::Error>;

/// The device that imports, and what it imports.
struct Bench {
    device: Arc<dyn GemDevice>,
    table: HandleTable,
    buffers: Vec<OwnedFd>,
    _exporter: Vec<DumbBuffer>,
}

impl Bench {
    fn new(importer: Arc<dyn GemDevice>, exporter: Arc<dyn GemDevice>) -> Result<Self, Error> {
        let exporter = HandleTable::new(exporter);
        let dumb: Vec<_> = (0..BATCH).map(|_| exporter.create_dumb(64, 64, 32)).collect::<Result<_, _>>()?;
        let buffers = dumb.iter().map(DumbBuffer::export).collect::<Result<_, _>>()?;
        // The time is told, as an event loop does it: where there is no vDSO, reading it costs as much as the import.
        let table = HandleTable::with_clock(importer.clone(), Clock::from(&ToldClock::default()));
        Ok(Self { table, device: importer, buffers, _exporter: dumb })
    }

    /// Nanoseconds of a batch of raw calls.
    fn raw(&self, handles: &mut Vec<NonZeroU32>) -> Result<f64, Error> {
        let start = Instant::now();
        for fd in &self.buffers {
            handles.push(self.device.prime_fd_to_handle(fd.as_fd())?);
        }
        let spent = start.elapsed();
        for handle in handles.drain(..) {
            self.device.gem_close(handle)?;
        }
        Ok(spent.as_secs_f64() * 1e9)
    }

    fn import(&self, handles: &mut Vec<GemHandle>) -> Result<f64, Error> {
        let start = Instant::now();
        for fd in &self.buffers {
            handles.push(self.table.import(fd.as_fd())?);
        }
        let spent = start.elapsed();
        handles.clear();
        Ok(spent.as_secs_f64() * 1e9)
    }

    fn import_seen(&self, stats: &[DmabufStat<'_>], handles: &mut Vec<GemHandle>) -> Result<f64, Error> {
        let start = Instant::now();
        for stat in stats {
            handles.push(self.table.import_stat(stat)?);
        }
        let spent = start.elapsed();
        handles.clear();
        Ok(spent.as_secs_f64() * 1e9)
    }

    /// The look at the descriptor alone.
    fn look(&self) -> Result<f64, Error> {
        let start = Instant::now();
        for fd in &self.buffers {
            std::hint::black_box(DmabufStat::of(fd.as_fd())?);
        }
        Ok(start.elapsed().as_secs_f64() * 1e9)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Importer, exporter, and what they are called.
type Devices = (Arc<dyn GemDevice>, Arc<dyn GemDevice>, String);

fn devices() -> Result<Devices, Error> {
    // cargo adds --bench.
    let nodes: Vec<_> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let Some(importer) = nodes.first() else {
        let machine = Machine::new(Profile::MODERN);
        let (importer, exporter) = (machine.add_device(Driver::vgem()), machine.add_device(Driver::vgem()));
        let open = |device: drm_prime::model::Device| device.open(Node::Primary);
        return Ok((Arc::new(open(importer)?), Arc::new(open(exporter)?), "model".to_owned()));
    };
    let open = |node: &str| -> Result<Arc<dyn GemDevice>, Error> {
        let file = OpenOptions::new().read(true).write(true).open(node)?;
        Ok(Arc::new(KernelDevice::from_own_file(file.into())?))
    };
    let (importer, exporter) = (open(importer)?, open(nodes.get(1).unwrap_or(importer))?);
    let name = format!("{} from {}", importer.driver(), exporter.driver());
    Ok((importer, exporter, name))
}

fn run() -> Result<(), Error> {
    let (importer, exporter, name) = devices()?;
    let bench = Bench::new(importer, exporter)?;
    let stats = bench.buffers.iter().map(|fd| DmabufStat::of(fd.as_fd())).collect::<Result<Vec<_>, _>>()?;
    let (mut raw, mut guards) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    let mut rounds: Vec<[f64; 4]> = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS + ROUNDS / 10 {
        let mut spent = [0.0; 4];
        // Nobody is always first after a break.
        for way in (0..4).map(|way| (way + round) % 4) {
            spent[way] = match way {
                0 => bench.raw(&mut raw)?,
                1 => bench.import_seen(&stats, &mut guards)?,
                2 => bench.import(&mut guards)?,
                _ => bench.look()?,
            } / BATCH as f64;
        }
        // The first ones warm the caches.
        if round >= ROUNDS / 10 {
            rounds.push(spent);
        }
    }
    println!("import of a new buffer, {name}: {ROUNDS} rounds of {BATCH}");
    let ways =
        ["device call", "table, descriptor looked at before", "table", "look at the descriptor (fstat)"];
    let base = median(rounds.iter().map(|spent| spent[0]).collect());
    for (way, label) in ways.into_iter().enumerate() {
        let spent = median(rounds.iter().map(|spent| spent[way]).collect());
        let each = median(rounds.iter().map(|spent| spent[way] / spent[0]).collect());
        println!("  {label:<36} {spent:>9.0} ns  x{:.3}  (by round x{each:.3})", spent / base);
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}
