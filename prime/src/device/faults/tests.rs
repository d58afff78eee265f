//! Every call fails with every errno at every use, and nothing is left behind by anyone.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use drm_fourcc::{DrmFourcc, DrmModifier};

use super::*;
use crate::{
    Fault,
    cache::FramebufferCache,
    dmabuf::{BufferPlane, Dmabuf},
    flip::PlaneFramebuffers,
    framebuffer::Framebuffer,
    handles::HandleTable,
    model::Census,
    testbed::{TestDevice, device, memory},
};

const ERRNOS: [Errno; 6] =
    [Errno::NOMEM, Errno::MFILE, Errno::INVAL, Errno::NODEV, Errno::BUSY, Errno::ACCESS];

/// What the scenarios work on, held open throughout.
struct Bench {
    device: Arc<TestDevice>,
    table: HandleTable,
    luma: OwnedFd,
    chroma: OwnedFd,
    _held: crate::GemHandle,
    _dumb: crate::DumbBuffer,
}

/// Everything that is alive in the model, and references and unclosed things in the books.
type Counts = (Census, usize, usize);

impl Bench {
    fn new(identifies: bool) -> Self {
        let device = device(0xe200);
        let device = Arc::new(if identifies { device } else { device.without_identity() });
        let table = HandleTable::new(device.clone());
        let buffer = || device.machine().udmabuf(4096).unwrap().into_owned().unwrap();
        let (luma, chroma) = (buffer(), buffer());
        let held = table.import(chroma.as_fd()).unwrap();
        let dumb = table.create_dumb(8, 8, 32).unwrap();
        Self { device, table, luma, chroma, _held: held, _dumb: dumb }
    }

    fn census(&self) -> Counts {
        let (census, stats) = (self.device.machine().census(), self.table.stats());
        assert_eq!(self.device.machine().events(), [], "something went wrong in the model");
        assert_eq!(stats.handles, census.handles, "the books and the device disagree about handles");
        assert_eq!(
            stats.framebuffers, census.framebuffers,
            "the books and the device disagree about framebuffers"
        );
        (census, stats.references, stats.unclosed)
    }

    fn nv12(&self) -> Dmabuf<'_> {
        let planes =
            [&self.luma, &self.chroma].map(|fd| BufferPlane { fd: fd.as_fd(), offset: 0, stride: 32 });
        Dmabuf::new(32, 32, DrmFourcc::Nv12, DrmModifier::Linear, &planes).unwrap()
    }
}

type Scenario = (&'static str, fn(&Bench) -> Result<(), Fault>);

const NO_DMABUF: &str = "import what is no dma-buf";

/// Each ends with everything dropped that it made.
const SCENARIOS: [Scenario; 9] = [
    (NO_DMABUF, |bench| {
        let null = std::fs::File::open("/dev/null").unwrap();
        match bench.table.import(null.as_fd()).unwrap_err().fault() {
            Fault::Client => Ok(()),
            fault => Err(fault),
        }
    }),
    ("import a new buffer", |bench| {
        let handle = bench.table.import(bench.luma.as_fd()).map_err(|e| e.fault())?;
        let _clone = handle.clone();
        drop(handle);
        Ok(())
    }),
    ("import a known buffer", |bench| {
        bench.table.import(bench.chroma.as_fd()).map_err(|e| e.fault()).map(drop)
    }),
    ("ask for an exporter", |bench| {
        let handle = bench.table.import(bench.luma.as_fd()).map_err(|e| e.fault())?;
        assert!(!handle.origin().is_owned());
        Ok(())
    }),
    ("two planes, one known", |bench| {
        let framebuffer = Framebuffer::new(&bench.table, &bench.nv12(), false).map_err(|e| e.fault())?;
        assert_eq!(framebuffer.handles().len(), 2);
        Ok(())
    }),
    ("remove a framebuffer", |bench| {
        let framebuffer = Framebuffer::new(&bench.table, &bench.nv12(), false).map_err(|e| e.fault())?;
        framebuffer.remove().map_err(|_| Fault::System)
    }),
    ("allocate, export, import, show", |bench| {
        let dumb = bench.table.create_dumb(16, 16, 32).map_err(|e| e.fault())?;
        let exported = dumb.export().map_err(|_| Fault::System)?;
        let import = bench.table.import(exported.as_fd()).map_err(|e| e.fault())?;
        assert_eq!(import.raw(), dumb.handle().raw());
        let framebuffer = Framebuffer::for_dumb(&bench.table, &dumb, DrmFourcc::Xrgb8888);
        framebuffer.map(drop).map_err(|e| e.fault())
    }),
    ("cache, show, evict, flip", |bench| {
        let mut cache = FramebufferCache::new(bench.table.clone());
        let mut planes = PlaneFramebuffers::new();
        let framebuffer = cache.get_or_import(1, &bench.nv12(), false).map_err(|e| e.fault());
        let remembered = cache.get(&1, false).is_some();
        assert_eq!(remembered, framebuffer.as_ref().map_or_else(|fault| *fault != Fault::System, |_| true));
        let framebuffer = framebuffer?;
        planes.commit(|staging| Ok::<_, Fault>(staging.show(NonZeroU32::MIN, &framebuffer).get()))?;
        drop(framebuffer);
        cache.clear();
        planes.flipped();
        Ok(())
    }),
    ("show and turn off", |bench| {
        let mut cache = FramebufferCache::new(bench.table.clone());
        let mut planes = PlaneFramebuffers::new();
        let framebuffer = cache.get_or_import(1, &bench.nv12(), false).map_err(|e| e.fault())?;
        planes.commit(|staging| Ok::<_, Fault>(staging.show(NonZeroU32::MIN, &framebuffer).get()))?;
        planes.turn_off().map_err(|_| Fault::System)
    }),
];

/// Whose fault a failed call is, as the errors are documented; `None` for calls whose failure nobody hears of.
fn expected(call: Call, errno: Errno) -> Option<Fault> {
    Some(match (call, errno) {
        (Call::GemClose | Call::CloseFramebuffer, _) => return None,
        (Call::FdToHandle, Errno::INVAL | Errno::NODEV)
        | (Call::AddFramebuffer | Call::CreateDumb, Errno::INVAL) => Fault::CannotScanOut,
        (Call::CreateDumb, Errno::ACCESS) => Fault::CannotScanOut,
        _ => Fault::System,
    })
}

#[test]
fn whatever_fails_nothing_is_left_behind() {
    let mut met = std::collections::BTreeMap::<String, u32>::new();
    for identifies in [true, false] {
        let bench = Bench::new(identifies);
        let before = bench.census();
        for (name, scenario) in SCENARIOS {
            assert_eq!(scenario(&bench), Ok(()), "{name}");
            assert_eq!(bench.census(), before, "{name}");
            for (call, errno) in Call::ALL.into_iter().flat_map(|call| ERRNOS.map(|errno| (call, errno))) {
                for nth in 1.. {
                    let injected = bench.device.injected();
                    bench.device.fail(call, nth, errno);
                    let outcome = scenario(&bench);
                    if bench.device.injected() == injected {
                        bench.device.clear();
                        break;
                    }
                    *met.entry(format!("{call:?} {errno}")).or_default() += 1;
                    let case = format!("{name}: {call:?} {nth} {errno:?}");
                    // The exporter's name is a courtesy: without it there is an origin all the same.
                    // EINVAL is what a file that is no dma-buf gets anyway, and then it is the client's fault.
                    let silent = call == Call::HandleToFd && name == "ask for an exporter"
                        || errno == Errno::INVAL && name == NO_DMABUF;
                    match expected(call, errno).filter(|_| !silent) {
                        Some(fault) => assert_eq!(outcome, Err(fault), "{case}"),
                        None => assert_eq!(outcome, Ok(()), "{case}"),
                    }
                    if (call, errno) == (Call::GemClose, Errno::INVAL) {
                        heal(&bench, &case);
                    }
                    assert_eq!(bench.table.retry_closes(), 0, "{case}");
                    assert_eq!(bench.census(), before, "{case}");
                }
            }
        }
    }
    assert_eq!(met.len(), Call::ALL.len() * ERRNOS.len(), "a cell was never met: {met:?}");
}

/// The device said that a handle was not there which was: the books believed it, and noticed. The device has it still, gives
/// it again to the next import of the buffer, and then it is counted like any other.
fn heal(bench: &Bench, case: &str) {
    assert!(bench.table.stats().violations > 0, "{case}");
    let listed: Vec<_> = bench.table.entries().iter().map(|entry| entry.handle).collect();
    // The lowest free numbers are given out first, so a lost one is not far.
    let numbers = (1..20).filter_map(NonZeroU32::new).filter(|number| !listed.contains(number));
    let lost: Vec<_> = numbers.filter_map(|number| Some((number, bench.device.buffer_of(number)?))).collect();
    assert_eq!(lost.len(), 1, "{case}");
    let (handle, dmabuf) = lost[0];
    if dmabuf == crate::DmabufId::of(bench.luma.as_fd()).unwrap() {
        assert_eq!(bench.table.import(bench.luma.as_fd()).unwrap().raw(), handle, "{case}");
    } else {
        // The dumb buffer's memory has no other way back in.
        bench.device.inner().gem_close(handle.get()).unwrap();
    }
}

#[test]
fn what_would_not_close_is_listed_revived_and_closed_later() {
    let bench = Bench::new(true);
    let before = bench.census();
    bench.device.fail(Call::GemClose, 1, Errno::BUSY);
    bench.device.fail(Call::GemClose, 1, Errno::BUSY);
    drop(bench.table.import(bench.luma.as_fd()).unwrap());
    let stuck = |bench: &Bench| {
        bench.table.ledger().handles.into_iter().filter(|entry| entry.references == 0).collect::<Vec<_>>()
    };
    let listed = stuck(&bench);
    assert_eq!((listed.len(), bench.table.stats().unclosed), (1, 1));
    assert!(listed[0].holders.is_empty());
    // The second attempt fails, too, and the buffer comes back: the handle is the old one, without asking.
    let imports = bench.device.uses(Call::FdToHandle);
    let again = bench.table.import(bench.luma.as_fd()).unwrap();
    assert_eq!((again.raw(), bench.device.uses(Call::FdToHandle)), (listed[0].handle, imports));
    assert_eq!((stuck(&bench).len(), bench.table.stats().unclosed), (0, 0));
    drop(again);
    assert_eq!(bench.census(), before);

    bench.device.fail(Call::CloseFramebuffer, 1, Errno::NOMEM);
    bench.device.fail(Call::CloseFramebuffer, 1, Errno::NOMEM);
    drop(Framebuffer::new(&bench.table, &bench.nv12(), false).unwrap());
    let ledger = bench.table.ledger();
    assert!(ledger.framebuffers.len() == 1 && ledger.framebuffers[0].unclosed, "{ledger:?}");
    assert_eq!((bench.table.retry_closes(), bench.table.retry_closes()), (1, 0));
    assert_eq!(bench.census(), before);
    assert_eq!(bench.table.stats().violations, 0);

    bench.device.fail(Call::CloseFramebuffer, 1, Errno::NOENT);
    drop(Framebuffer::new(&bench.table, &bench.nv12(), false).unwrap());
    assert_eq!((bench.table.stats().framebuffers, bench.table.stats().violations), (0, 1));
}

#[test]
fn faults_come_at_their_use_and_once() {
    let device = device(7);
    let create = || device.create_dumb(8, 8, 32).map(drop).map_err(|err| err.raw_os_error());
    let errno = |errno: Errno| Err(Some(errno.raw_os_error()));
    device.fail(Call::CreateDumb, 2, Errno::NOMEM);
    device.fail(Call::CreateDumb, 3, Errno::BUSY);
    device.fail(Call::GemClose, 1, Errno::BUSY);
    let outcomes = [create(), create(), create(), create(), create()];
    assert_eq!(outcomes, [Ok(()), errno(Errno::NOMEM), errno(Errno::BUSY), Ok(()), Ok(())]);
    assert_eq!((device.uses(Call::CreateDumb), device.uses(Call::GemClose), device.injected()), (5, 0, 2));
    assert_eq!(device.handles(), 3, "the device heard of a failed call");
    device.clear();
    device.gem_close(NonZeroU32::MIN).unwrap();
    assert_eq!((device.dev_id(), device.driver(), device.descriptors()), (7, "", vec![]));
    assert!(device.supports_modifiers() && device.identifies_dmabufs());
    let null = std::fs::File::open("/dev/null").unwrap();
    assert!(device.is_dmabuf(memory(1).as_fd()).unwrap() && !device.is_dmabuf(null.as_fd()).unwrap());
}
