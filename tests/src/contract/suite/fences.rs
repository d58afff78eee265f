//! Fences: vgem's own, what they do to `poll`, and sync files (vgem_basic and dmabuf_sync_file of intel-gpu-tools).

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{buffer, cases, expect_equal, export, exported, import, render, vgem, vkms};
use crate::contract::{
    Contract, FENCE_WRITE, Fd, File, READABLE, SYNC_READ, SYNC_WRITE, SyncArg, SyncFile, WRITABLE, fine,
    refused,
};

cases! {
    igt_vgem_basic_dmabuf_fence,
    igt_vgem_basic_dmabuf_fence_before,
    igt_vgem_basic_conflicting_fences_are_ebusy,
    igt_vgem_basic_bad_flag_pad_handle_and_fence,
    fences_of_a_closed_file_are_signalled,
    fences_follow_the_buffer_to_its_importers,
    vkms_has_no_fences_of_its_own,
    igt_dmabuf_sync_file_export_basic,
    igt_dmabuf_sync_file_export_before_signal,
    igt_dmabuf_sync_file_export_multiwait,
    igt_dmabuf_sync_file_export_wait_after_attach,
    igt_dmabuf_sync_file_import_basic,
    igt_dmabuf_sync_file_import_multiple_read_only,
    igt_dmabuf_sync_file_import_multiple_read_write,
    sync_file_bad_arguments,
    sync_file_export_needs_a_descriptor,
}

const BOTH: u16 = READABLE | WRITABLE;
const READ: u32 = SYNC_READ as u32;
const WRITE: u32 = SYNC_WRITE as u32;

/// Polls each direction by itself: a poll that finds a fence leaves a callback behind, which holds the file.
fn readiness(side: &mut dyn Contract, fd: Fd) -> Result<u16> {
    let readable = fine("poll", side.poll(fd, READABLE))?;
    Ok(readable | fine("poll", side.poll(fd, WRITABLE))?)
}

fn expect_ready(side: &mut dyn Contract, when: &str, fd: Fd, expected: u16) -> Result<()> {
    expect_equal(when, readiness(side, fd)?, expected)
}

fn attach(side: &mut dyn Contract, file: File, handle: u32, flags: u32) -> Result<u32> {
    fine("FENCE_ATTACH", side.fence_attach(file, handle, flags, 0))
}

fn signal(side: &mut dyn Contract, file: File, fence: u32) -> Result<()> {
    fine("FENCE_SIGNAL", side.fence_signal(file, fence, 0))
}

fn snapshot(side: &mut dyn Contract, fd: Fd, flags: u32) -> Result<SyncFile> {
    fine("EXPORT_SYNC_FILE", side.export_sync_file(fd, flags))
}

fn expect_signalled(side: &mut dyn Contract, when: &str, sync: SyncFile, expected: bool) -> Result<()> {
    expect_equal(when, fine("poll", side.signalled(sync))?, expected)
}

/// Sync files are the newest of these calls; a kernel without them must say so, and then there is nothing to test.
fn without_sync_files(side: &mut dyn Contract, fd: Fd) -> Result<bool> {
    if side.caps().sync_files {
        return Ok(false);
    }
    refused("EXPORT_SYNC_FILE", side.export_sync_file(fd, READ), Errno::NOTTY)?;
    refused("IMPORT_SYNC_FILE", side.import_sync_file(fd, SyncArg::Bad, READ), Errno::NOTTY)?;
    Ok(true)
}

fn igt_vgem_basic_dmabuf_fence(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    expect_ready(side, "idle", fd, BOTH)?;
    let fence = attach(side, file, handle, 0)?;
    expect_ready(side, "being read", fd, READABLE)?;
    signal(side, file, fence)?;
    expect_ready(side, "idle again", fd, BOTH)?;
    let fence = attach(side, file, handle, FENCE_WRITE)?;
    expect_ready(side, "being written", fd, 0)?;
    signal(side, file, fence)?;
    expect_ready(side, "idle at last", fd, BOTH)
}

/// The fence is on the object: it is there before the dma-buf is.
fn igt_vgem_basic_dmabuf_fence_before(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    for (flags, busy) in [(0, READABLE), (FENCE_WRITE, 0)] {
        let handle = buffer(side, file, 1)?.handle;
        let fence = attach(side, file, handle, flags)?;
        let fd = export(side, file, handle)?;
        expect_ready(side, "exported with a fence", fd, busy)?;
        signal(side, file, fence)?;
        expect_ready(side, "signalled", fd, BOTH)?;
    }
    Ok(())
}

fn igt_vgem_basic_conflicting_fences_are_ebusy(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, 1)?.handle;
    let reader = attach(side, file, handle, 0)?;
    let another = attach(side, file, handle, 0)?;
    refused("a writer beside readers", side.fence_attach(file, handle, FENCE_WRITE, 0), Errno::BUSY)?;
    signal(side, file, reader)?;
    refused("a writer beside a reader", side.fence_attach(file, handle, FENCE_WRITE, 0), Errno::BUSY)?;
    signal(side, file, another)?;
    let writer = attach(side, file, handle, FENCE_WRITE)?;
    refused("a reader beside a writer", side.fence_attach(file, handle, 0, 0), Errno::BUSY)?;
    refused("a second writer", side.fence_attach(file, handle, FENCE_WRITE, 0), Errno::BUSY)?;
    signal(side, file, writer)?;
    let last = attach(side, file, handle, 0)?;
    signal(side, file, last)
}

fn igt_vgem_basic_bad_flag_pad_handle_and_fence(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, render(side)?);
    let (handle, fd) = exported(side, one)?;
    refused("a flag", side.fence_attach(one, handle, 2, 0), Errno::INVAL)?;
    refused("padding", side.fence_attach(one, handle, 0, 1), Errno::INVAL)?;
    refused("a flag and no handle", side.fence_attach(one, 4711, 2, 0), Errno::INVAL)?;
    for handle in [0, 4711] {
        refused("no handle", side.fence_attach(one, handle, 0, 0), Errno::NOENT)?;
    }
    refused("a flag", side.fence_signal(one, 1, 1), Errno::INVAL)?;
    for fence in [0, 1, 4711] {
        refused("no fence", side.fence_signal(one, fence, 0), Errno::NOENT)?;
    }
    // A fence belongs to its file, and is signalled once. Numbers are not used again.
    let other = import(side, two, fd)?;
    let fence = attach(side, two, other, 0)?;
    refused("the fence of another file", side.fence_signal(one, fence, 0), Errno::NOENT)?;
    signal(side, two, fence)?;
    refused("a second time", side.fence_signal(two, fence, 0), Errno::NOENT)?;
    expect_equal("the next number", attach(side, two, other, 0)?, fence + 1)
}

fn fences_of_a_closed_file_are_signalled(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vgem(side)?);
    let (_, fd) = exported(side, one)?;
    let other = import(side, two, fd)?;
    attach(side, two, other, FENCE_WRITE)?;
    expect_ready(side, "pending", fd, 0)?;
    side.close_file(two);
    expect_ready(side, "the owner is gone", fd, BOTH)
}

fn fences_follow_the_buffer_to_its_importers(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (handle, fd) = exported(side, exporter)?;
    let imported = import(side, importer, fd)?;
    let through = export(side, importer, imported)?;
    let fence = attach(side, exporter, handle, FENCE_WRITE)?;
    expect_ready(side, "through the importer", through, 0)?;
    signal(side, exporter, fence)?;
    expect_ready(side, "through the importer", through, BOTH)
}

fn vkms_has_no_fences_of_its_own(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = buffer(side, file, 1)?.handle;
    refused("FENCE_ATTACH", side.fence_attach(file, handle, 0, 0), Errno::INVAL)?;
    refused("FENCE_SIGNAL", side.fence_signal(file, 1, 0), Errno::INVAL)
}

fn igt_dmabuf_sync_file_export_basic(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    if without_sync_files(side, fd)? {
        return Ok(());
    }
    for flags in [READ, WRITE, READ | WRITE] {
        let idle = snapshot(side, fd, flags)?;
        expect_signalled(side, "idle", idle, true)?;
    }
    let fence = attach(side, file, handle, 0)?;
    // Who reads waits for writers, who writes waits for all.
    let (reader, writer) = (snapshot(side, fd, READ)?, snapshot(side, fd, WRITE)?);
    expect_signalled(side, "a reader beside a reader", reader, true)?;
    expect_signalled(side, "a writer beside a reader", writer, false)?;
    signal(side, file, fence)?;
    expect_signalled(side, "a writer after the reader", writer, true)?;
    let fence = attach(side, file, handle, FENCE_WRITE)?;
    let (reader, writer) = (snapshot(side, fd, READ)?, snapshot(side, fd, WRITE)?);
    expect_signalled(side, "a reader beside a writer", reader, false)?;
    expect_signalled(side, "a writer beside a writer", writer, false)?;
    signal(side, file, fence)?;
    expect_signalled(side, "a reader after the writer", reader, true)
}

fn igt_dmabuf_sync_file_export_before_signal(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    if without_sync_files(side, fd)? {
        return Ok(());
    }
    let fence = attach(side, file, handle, FENCE_WRITE)?;
    let syncs = [snapshot(side, fd, READ)?, snapshot(side, fd, WRITE)?, snapshot(side, fd, READ | WRITE)?];
    for sync in syncs {
        expect_signalled(side, "before", sync, false)?;
    }
    signal(side, file, fence)?;
    for sync in syncs {
        expect_signalled(side, "after", sync, true)?;
    }
    Ok(())
}

/// A sync file is a snapshot of all fences of its moment: it waits for each of them and for none that came later.
fn igt_dmabuf_sync_file_export_multiwait(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    if without_sync_files(side, fd)? {
        return Ok(());
    }
    let first = attach(side, file, handle, 0)?;
    let with_one = snapshot(side, fd, WRITE)?;
    let second = attach(side, file, handle, 0)?;
    let with_two = snapshot(side, fd, WRITE)?;
    let third = attach(side, file, handle, 0)?;
    let with_three = snapshot(side, fd, WRITE)?;
    for (fence, expected) in
        [(first, [true, false, false]), (third, [true, false, false]), (second, [true, true, true])]
    {
        signal(side, file, fence)?;
        for (sync, expected) in [with_one, with_two, with_three].into_iter().zip(expected) {
            expect_signalled(side, &format!("{sync:?} after fence {fence}"), sync, expected)?;
        }
    }
    Ok(())
}

fn igt_dmabuf_sync_file_export_wait_after_attach(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    if without_sync_files(side, fd)? {
        return Ok(());
    }
    let before = snapshot(side, fd, READ | WRITE)?;
    let fence = attach(side, file, handle, FENCE_WRITE)?;
    let after = snapshot(side, fd, READ | WRITE)?;
    expect_signalled(side, "taken before the fence", before, true)?;
    expect_signalled(side, "taken after the fence", after, false)?;
    expect_ready(side, "the buffer", fd, 0)?;
    signal(side, file, fence)?;
    expect_signalled(side, "taken after the fence", after, true)
}

/// A pending fence as a sync file, and what signals it.
fn pending(side: &mut dyn Contract, file: File) -> Result<(SyncFile, u32)> {
    let (handle, fd) = exported(side, file)?;
    let fence = attach(side, file, handle, FENCE_WRITE)?;
    Ok((snapshot(side, fd, READ | WRITE)?, fence))
}

fn igt_dmabuf_sync_file_import_basic(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    if without_sync_files(side, fd)? {
        return Ok(());
    }
    for (flags, busy) in [(READ, READABLE), (WRITE, 0), (READ | WRITE, 0)] {
        let (sync, fence) = pending(side, file)?;
        fine("IMPORT_SYNC_FILE", side.import_sync_file(fd, SyncArg::File(sync), flags))?;
        expect_ready(side, "with the fence", fd, busy)?;
        // The buffer holds the fence, not the sync file.
        side.close_sync(sync);
        expect_ready(side, "without the sync file", fd, busy)?;
        signal(side, file, fence)?;
        expect_ready(side, "signalled", fd, BOTH)?;
    }
    // A signalled fence changes nothing.
    let (sync, fence) = pending(side, file)?;
    signal(side, file, fence)?;
    fine("IMPORT_SYNC_FILE", side.import_sync_file(fd, SyncArg::File(sync), WRITE))?;
    expect_ready(side, "with a signalled fence", fd, BOTH)
}

fn import_multiple(side: &mut dyn Contract, with_writer: bool) -> Result<()> {
    const FENCES: usize = 32;
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    if without_sync_files(side, fd)? {
        return Ok(());
    }
    let mut fences = Vec::new();
    for _ in 0..FENCES {
        let (sync, fence) = pending(side, file)?;
        fine("IMPORT_SYNC_FILE", side.import_sync_file(fd, SyncArg::File(sync), READ))?;
        fences.push(fence);
    }
    let writer = if with_writer {
        let (sync, fence) = pending(side, file)?;
        fine("IMPORT_SYNC_FILE", side.import_sync_file(fd, SyncArg::File(sync), WRITE))?;
        Some(fence)
    } else {
        None
    };
    let (for_reading, for_writing) = (snapshot(side, fd, READ)?, snapshot(side, fd, WRITE)?);
    expect_signalled(side, "for reading", for_reading, !with_writer)?;
    for (index, fence) in fences.into_iter().enumerate() {
        expect_signalled(side, &format!("for writing, {index} signalled"), for_writing, false)?;
        signal(side, file, fence)?;
    }
    expect_signalled(side, "for writing, readers gone", for_writing, !with_writer)?;
    if let Some(writer) = writer {
        expect_ready(side, "with the writer", fd, 0)?;
        signal(side, file, writer)?;
        expect_signalled(side, "for reading", for_reading, true)?;
        expect_signalled(side, "for writing", for_writing, true)?;
    }
    expect_ready(side, "at last", fd, BOTH)
}

fn igt_dmabuf_sync_file_import_multiple_read_only(side: &mut dyn Contract) -> Result<()> {
    import_multiple(side, false)
}

fn igt_dmabuf_sync_file_import_multiple_read_write(side: &mut dyn Contract) -> Result<()> {
    import_multiple(side, true)
}

fn sync_file_bad_arguments(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    if without_sync_files(side, fd)? {
        return Ok(());
    }
    let sync = snapshot(side, fd, READ)?;
    for flags in [0, 4, READ | 4, u32::MAX] {
        refused("EXPORT_SYNC_FILE", side.export_sync_file(fd, flags), Errno::INVAL)?;
        let answer = side.import_sync_file(fd, SyncArg::File(sync), flags);
        refused("IMPORT_SYNC_FILE", answer, Errno::INVAL)?;
    }
    for arg in [SyncArg::Bad, SyncArg::DevNull] {
        refused(&format!("{arg:?}"), side.import_sync_file(fd, arg, READ), Errno::INVAL)?;
    }
    Ok(())
}

fn sync_file_export_needs_a_descriptor(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    if without_sync_files(side, fd)? {
        return Ok(());
    }
    side.limit_fds(Some(0));
    let (good, bad) = (side.export_sync_file(fd, READ), side.export_sync_file(fd, 0));
    side.limit_fds(None);
    refused("no descriptor left", good, Errno::MFILE)?;
    refused("bad flags come first", bad, Errno::INVAL)?;
    ensure!(super::count(side, fd)? == 3, "a reference is left");
    Ok(())
}
