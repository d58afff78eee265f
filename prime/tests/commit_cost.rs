//! What a commit of a known buffer costs in this crate: no system call and no allocation.
//!
//! The calls are counted by a kernel that kills for the first one: a child enters seccomp's strict mode, in which only `read`,
//! `write`, `exit` and `sigreturn` are allowed, commits some ten thousand frames and writes a word. A second child
//! makes one harmless call in the middle, and must not get that far. The allocations are counted by the global allocator.

use std::{
    num::NonZeroU32,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::{Command, ExitCode, Stdio},
    sync::Arc,
};

use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::{
    BufferPlane, Dmabuf, FramebufferCache, HandleTable, PlaneFramebuffers,
    model::{Driver, Machine, Node, Profile},
};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::thread::SecureComputingMode;

const BUFFERS: u32 = 64;
const PLANES: u32 = 3;
const FRAMES: u32 = 10_000;
/// Tells the child what to do.
const ROLE: &str = "PRIMEWAY_COMMIT_COST";
const DONE: &[u8] = b"done\n";

/// A display with buffers that have all been shown once.
struct Display {
    cache: FramebufferCache<u32>,
    planes: PlaneFramebuffers,
    _memory: OwnedFd,
}

impl Display {
    fn new() -> Result<Self, Failed> {
        let machine = Machine::new(Profile::MODERN);
        let file = machine.add_device(Driver::vkms()).open(Node::Primary)?;
        let memory = machine.udmabuf(64 * 64 * 4)?.into_owned()?;
        let mut cache = FramebufferCache::new(HandleTable::new(Arc::new(file)));
        let plane = BufferPlane { fd: memory.as_fd(), offset: 0, stride: 256 };
        let buffer = Dmabuf::new(64, 64, DrmFourcc::Argb8888, DrmModifier::Linear, &[plane])?;
        for key in 0..BUFFERS {
            cache.get_or_import(key, &buffer, false)?;
            cache.get_or_import(key, &buffer, true)?;
        }
        // One that is refused: vkms takes no tiles.
        let tiled = buffer.with_modifier(DrmModifier::I915_x_tiled)?;
        if cache.get_or_import(BUFFERS, &tiled, false).is_ok() {
            return Err("a tiled buffer was taken".into());
        }
        let mut display = Self { cache, planes: PlaneFramebuffers::new(), _memory: memory };
        for frame in 0..8 {
            display.frame(frame);
        }
        Ok(display)
    }

    /// Commits a frame of known buffers, one of which is known to be refused, and takes its event.
    fn frame(&mut self, frame: u32) -> u32 {
        let (cache, mut sum) = (&self.cache, 0);
        let sent = self.planes.commit(|staging| {
            for plane in 0..PLANES {
                let key = (frame * PLANES + plane) % BUFFERS;
                let Some(Ok(framebuffer)) = cache.get(&key, plane == 0) else { return Err(()) };
                let plane = NonZeroU32::MIN.saturating_add(plane);
                sum += staging.show(plane, &framebuffer).get();
            }
            if !matches!(cache.get(&BUFFERS, false), Some(Err(_))) {
                return Err(());
            }
            Ok(())
        });
        if sent.is_err() || !self.planes.flipped() { 0 } else { sum }
    }
}

/// Ends by SIGKILL at its first forbidden system call; that is the end of a good run as well, once it leaves.
fn child(role: &str) -> Result<(), Failed> {
    let mut display = Display::new()?;
    rustix::thread::set_secure_computing_mode(SecureComputingMode::Strict)?;
    let mut good = true;
    for frame in 0..FRAMES {
        good &= display.frame(frame) > 0;
        if role == "call" && frame == FRAMES / 2 {
            let _ = rustix::process::getppid();
        }
    }
    if good {
        rustix::io::write(std::io::stdout().as_fd(), DONE)?;
    }
    Ok(())
}

fn run_child(role: &str) -> Result<Vec<u8>, Failed> {
    let output = Command::new(std::env::current_exe()?)
        .env(ROLE, role)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if output.status.signal() != Some(9) {
        return Err(format!("seccomp is not at work: the child ended with {}", output.status).into());
    }
    Ok(output.stdout)
}

fn no_system_call() -> Result<(), Failed> {
    if run_child("plain")? != DONE {
        return Err("a commit of known buffers makes a system call".into());
    }
    Ok(())
}

fn a_system_call_is_noticed() -> Result<(), Failed> {
    match run_child("call")?.as_slice() {
        b"" => Ok(()),
        _ => Err("the child made a system call and lived".into()),
    }
}

fn no_allocation() -> Result<(), Failed> {
    let mut display = Display::new()?;
    let mut good = true;
    let counted = allocation_counter::measure(|| {
        for frame in 0..FRAMES {
            good &= display.frame(frame) > 0;
        }
    });
    match (good, counted.count_total) {
        (true, 0) => Ok(()),
        (good, count) => Err(format!("{count} allocations in {FRAMES} frames (shown: {good})").into()),
    }
}

fn an_allocation_is_noticed() -> Result<(), Failed> {
    let mut display = Display::new()?;
    let counted = allocation_counter::measure(|| {
        for frame in 0..FRAMES {
            display.frame(frame);
            if frame == FRAMES / 2 {
                std::hint::black_box(Box::new(frame));
            }
        }
    });
    match counted.count_total {
        1 => Ok(()),
        count => Err(format!("one allocation was counted as {count}").into()),
    }
}

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return match child(&role) {
            Ok(()) => ExitCode::SUCCESS,
            Err(err) => {
                eprintln!("{}", err.message().unwrap_or("failed"));
                ExitCode::FAILURE
            }
        };
    }
    let trials = vec![
        Trial::test("commit_of_known_buffers_makes_no_system_call", no_system_call),
        Trial::test("a_system_call_is_noticed", a_system_call_is_noticed),
        Trial::test("commit_of_known_buffers_allocates_nothing", no_allocation),
        Trial::test("an_allocation_is_noticed", an_allocation_is_noticed),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
