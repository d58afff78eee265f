//! Four threads on one handle table in the lab's kernel: import, export and close at the same time.
//!
//! Owns the races of intel-gpu-tools' prime_self_import (export and reimport against GEM_CLOSE), through [`HandleTable`]. Leaks
//! are looked for in three places: the table's own books, the descriptors of the process, the kernel's list of dma-bufs.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use drm_fourcc::DrmModifier;
use drm_prime::{BufferPlane, Dmabuf, DmabufId, Framebuffer, HandleTable, KernelDevice, exporter};
use primeway_tests::buffer::{Allocator, ClientBuffer};
use primeway_tests::debugfs::DebugDevice;
use primeway_tests::drm_node::DrmNode;
use primeway_tests::format::Format;
use primeway_tests::kernel_cases::{self, Case};

const CASES: &[Case] = &[
    ("racing_imports_and_closes_leave_nothing", racing_imports_and_closes_leave_nothing),
    ("racing_exports_and_closes_leave_nothing", racing_exports_and_closes_leave_nothing),
    ("racing_reimports_and_closes_leave_nothing", racing_reimports_and_closes_leave_nothing),
];

fn main() -> ExitCode {
    kernel_cases::run(env!("CARGO_CRATE_NAME"), CASES)
}

fn references(fd: BorrowedFd<'_>) -> Result<u64> {
    Ok(exporter::exporter_info(fd)?.context("no fdinfo of a dma-buf")?.references)
}

/// How often each thread goes round; twenty times as often in the long mode.
fn rounds(ordinary: usize) -> usize {
    if std::env::var_os("PRIMEWAY_LONG").is_some() { ordinary * 20 } else { ordinary }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What must be as before once all threads are done: dma-bufs of the kernel, descriptors of this process.
fn alive() -> Result<(String, usize)> {
    let text = fs::read_to_string("/sys/kernel/debug/dma_buf/bufinfo").context("dma_buf/bufinfo")?;
    let total = text.lines().rev().find(|line| line.starts_with("Total")).context("no total")?;
    Ok((total.to_owned(), fs::read_dir("/proc/self/fd")?.count()))
}

/// Runs a body in each of four threads, and says what failed first.
fn race(body: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|number| {
                scope.spawn({
                    let body = &body;
                    move || body(number)
                })
            })
            .collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

/// The table's own books: nothing open, and nobody closed a handle twice.
fn expect_clean(table: &HandleTable) -> Result<()> {
    let stats = table.stats();
    ensure!(stats.handles == 0 && stats.references == 0 && stats.violations == 0, "{stats:?}");
    ensure!(table.entries().is_empty(), "left in the ledger: {:?}", table.entries());
    Ok(())
}

/// The books of a file of its own on a device.
fn table(driver: &str) -> Result<HandleTable> {
    let node = File::options().read(true).write(true).open(DrmNode::of_driver(driver)?.path())?;
    Ok(HandleTable::new(Arc::new(KernelDevice::from_own_file(OwnedFd::from(node))?)))
}

fn racing_imports_and_closes_leave_nothing() -> Result<()> {
    let table = table("vkms")?;
    let buffers: Vec<_> = (0..3)
        .map(|_| ClientBuffer::allocate(Allocator::Vgem, Format::named("XR24")?, 64, 64))
        .collect::<Result<_>>()?;
    let described: Vec<_> = buffers
        .iter()
        .map(|buffer| {
            let plane = BufferPlane { fd: buffer.as_fd(), offset: 0, stride: buffer.layout[0].stride };
            Ok(Dmabuf::new(64, 64, buffer.format.fourcc, DrmModifier::Linear, &[plane])?)
        })
        .collect::<Result<_>>()?;
    let before = alive()?;
    race(|seed| {
        for round in 0..rounds(600) {
            let buffer = &described[(seed + round) % described.len()];
            let framebuffer = Framebuffer::new(&table, buffer, false)?;
            // The handle names this buffer and no other: the kernel gives the same dma-buf back.
            let fd = table.export(&framebuffer.handles()[0])?;
            ensure!(buffer.ids()? == [DmabufId::of(fd.as_fd())?], "a handle of another buffer");
        }
        Ok(())
    })?;
    expect_clean(&table)?;
    let after = alive()?;
    ensure!(before == after, "before {before:?}, after {after:?}");
    let card = DebugDevice::of_node(DrmNode::of_driver("vkms")?.path())?;
    ensure!(card.framebuffers()?.is_empty(), "framebuffers are left");
    Ok(())
}

/// Four threads export what others are closing: the exporter's and the importer's handles of one buffer come and go.
fn racing_exports_and_closes_leave_nothing() -> Result<()> {
    let (exporter, importer) = (table("vgem")?, table("vkms")?);
    // The buffer of the round: whoever exports it may find its handle on the way out.
    let shared = Mutex::new(Arc::new(exporter.create_dumb(32, 32, 32)?));
    let before = alive()?;
    race(|seed| {
        for round in 0..rounds(250) {
            let dumb = lock(&shared).clone();
            let fd = dumb.export()?;
            let id = DmabufId::of(fd.as_fd())?;
            let import = importer.import(fd.as_fd())?;
            if (seed + round) % 4 == 0 {
                // The last of the four to let go of the old one closes its handle while others export it.
                *lock(&shared) = Arc::new(exporter.create_dumb(32, 32, 32)?);
            }
            drop(dumb);
            let again = importer.export(&import)?;
            ensure!(DmabufId::of(again.as_fd())? == id, "the import became another buffer");
            let own = exporter.import(fd.as_fd())?;
            ensure!(DmabufId::of(exporter.export(&own)?.as_fd())? == id, "the self-import is another buffer");
        }
        Ok(())
    })?;
    expect_clean(&importer)?;
    // One buffer is still the current one, and was never exported.
    ensure!(exporter.stats().handles == 1 && exporter.stats().violations == 0, "{:?}", exporter.stats());
    drop(shared);
    expect_clean(&exporter)?;
    let after = alive()?;
    ensure!(before == after, "before {before:?}, after {after:?}");
    Ok(())
}

/// Four threads take one buffer in and let it go, on the device that made it and on another one.
fn racing_reimports_and_closes_leave_nothing() -> Result<()> {
    let (own, other, foreign) = (table("vgem")?, table("vgem")?, table("vkms")?);
    let before = alive()?;
    let fd = own.create_dumb(32, 32, 32)?.export()?;
    ensure!(references(fd.as_fd())? == 1, "the exporter's handle is left");
    let id = DmabufId::of(fd.as_fd())?;
    race(|seed| {
        for round in 0..rounds(800) {
            let table = [&own, &other, &foreign][(seed + round) % 3];
            let import = table.import(fd.as_fd())?;
            let second = table.import(fd.as_fd())?;
            ensure!(second.raw() == import.raw(), "one buffer, two handles");
            if round % 2 == 0 {
                drop(import);
                ensure!(DmabufId::of(table.export(&second)?.as_fd())? == id, "another buffer");
            } else {
                drop(second);
                ensure!(DmabufId::of(table.export(&import)?.as_fd())? == id, "another buffer");
            }
        }
        Ok(())
    })?;
    for table in [&own, &other, &foreign] {
        expect_clean(table)?;
    }
    ensure!(references(fd.as_fd())? == 1, "{} references", references(fd.as_fd())?);
    drop(fd);
    let after = alive()?;
    ensure!(before == after, "before {before:?}, after {after:?}");
    Ok(())
}
