//! prime_self_import of intel-gpu-tools: a device that imports what it exported.

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{
    buffer, cases, expect_count, expect_equal, export, exported, first_byte, import, inode, vgem, vkms,
};
use crate::contract::{Contract, Device, File, PAGE, Whence, fine, refused};

cases! {
    igt_prime_self_import_with_one_bo,
    igt_prime_self_import_with_one_bo_two_files,
    igt_prime_self_import_with_two_bos,
    igt_prime_self_import_with_fd_dup,
    igt_prime_self_import_llseek_size,
    igt_prime_self_import_llseek_bad,
    igt_prime_self_import_export_vs_gem_close,
    igt_prime_self_import_reimport_vs_gem_close,
}

/// Stores a byte through one file's handle and reads it through another's.
fn shared(side: &mut dyn Contract, one: (File, u32), two: (File, u32), value: u8) -> Result<()> {
    let a = fine("mmap", side.mmap_dumb(one.0, one.1, PAGE))?;
    let b = fine("mmap", side.mmap_dumb(two.0, two.1, PAGE))?;
    side.poke(a, 100, value);
    expect_equal("the other mapping", side.peek(b, 100), value)?;
    side.unmap(a);
    side.unmap(b);
    Ok(())
}

fn igt_prime_self_import_with_one_bo(side: &mut dyn Contract) -> Result<()> {
    for device in [Device::Vgem, Device::Vkms] {
        let open = |side: &mut dyn Contract| match device {
            Device::Vgem => vgem(side),
            Device::Vkms => vkms(side),
        };
        let (one, two) = (open(side)?, open(side)?);
        let (handle, fd) = exported(side, one)?;
        let other = import(side, two, fd)?;
        shared(side, (one, handle), (two, other), 1)?;
        // The same handle on both files, however often.
        expect_equal("reimport here", import(side, one, fd)?, handle)?;
        expect_equal("reimport there", import(side, two, fd)?, other)?;
        // The memory survives the descriptor, then the exporter's handle.
        side.close_fd(fd);
        shared(side, (one, handle), (two, other), 2)?;
        fine("GEM_CLOSE", side.gem_close(one, handle))?;
        shared(side, (two, other), (two, other), 3)?;
        // The importer exports it, closes its handle, and both take it anew.
        let fd = export(side, two, other)?;
        fine("GEM_CLOSE", side.gem_close(two, other))?;
        expect_count(side, "no handle anywhere", fd, 1)?;
        let handle = import(side, one, fd)?;
        let other = import(side, two, fd)?;
        shared(side, (one, handle), (two, other), 4)?;
        // It survives the exporter's file.
        side.close_file(one);
        shared(side, (two, other), (two, other), 5)?;
        expect_equal("through the descriptor", first_byte(side, fd)?, 0)?;
        expect_count(side, "one handle", fd, 3)?;
    }
    Ok(())
}

fn igt_prime_self_import_with_one_bo_two_files(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vgem(side)?);
    let handle = buffer(side, one, 1)?.handle;
    let name = fine("GEM_FLINK", side.flink(one, handle))?;
    let opened = fine("GEM_OPEN", side.gem_open(two, name))?;
    let (a, b) = (export(side, two, opened)?, export(side, one, handle)?);
    expect_equal("inodes", inode(side, a)?, inode(side, b)?)?;
    expect_equal("reimport in the second file", import(side, two, a)?, opened)?;
    expect_equal("reimport in the first file", import(side, one, b)?, handle)
}

fn igt_prime_self_import_with_two_bos(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vgem(side)?);
    let ((a, fd_a), (b, fd_b)) = (exported(side, one)?, exported(side, one)?);
    fine("fill", side.fill(fd_a, 0xa))?;
    fine("fill", side.fill(fd_b, 0xb))?;
    let (in_a, in_b) = (import(side, two, fd_a)?, import(side, two, fd_b)?);
    ensure!(in_a != in_b, "one handle for both");
    side.close_fd(fd_a);
    fine("GEM_CLOSE", side.gem_close(one, a))?;
    // The number of the closed handle is used again, and the other buffer is not touched by it.
    let again = import(side, one, fd_b)?;
    expect_equal("the known one", again, b)?;
    let new = buffer(side, one, 1)?.handle;
    expect_equal("the new one", new, a)?;
    let map = fine("mmap", side.mmap_dumb(two, in_a, PAGE))?;
    expect_equal("the first buffer", side.peek(map, 0), 0xa)?;
    let map = fine("mmap", side.mmap_dumb(two, in_b, PAGE))?;
    expect_equal("the second buffer", side.peek(map, 0), 0xb)?;
    let map = fine("mmap", side.mmap_dumb(one, new, PAGE))?;
    expect_equal("the new buffer", side.peek(map, 0), 0)
}

fn igt_prime_self_import_with_fd_dup(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vgem(side)?);
    let (handle, fd) = exported(side, one)?;
    let dup = fine("dup", side.dup_fd(fd))?;
    side.close_fd(fd);
    let other = import(side, two, dup)?;
    expect_equal("the exporter's import", import(side, one, dup)?, handle)?;
    shared(side, (one, handle), (two, other), 6)?;
    fine("GEM_CLOSE", side.gem_close(one, handle))?;
    side.close_fd(dup);
    shared(side, (two, other), (two, other), 7)
}

fn igt_prime_self_import_llseek_size(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    for shift in 0..10 {
        let pages = 1 << shift;
        let handle = buffer(side, file, pages)?.handle;
        let fd = export(side, file, handle)?;
        expect_equal("SEEK_END", fine("lseek", side.seek(fd, 0, Whence::End))?, u64::from(pages) * PAGE)?;
        side.close_fd(fd);
        fine("GEM_CLOSE", side.gem_close(file, handle))?;
    }
    Ok(())
}

fn igt_prime_self_import_llseek_bad(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    for (offset, whence) in [(1, Whence::End), (1, Whence::Set), (1, Whence::Cur), (0, Whence::Cur)] {
        refused("lseek", side.seek(fd, offset, whence), Errno::INVAL)?;
    }
    Ok(())
}

/// The sequence of the race, without the race: the threads are in the target of the kernel.
fn igt_prime_self_import_export_vs_gem_close(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    for _ in 0..500 {
        let handle = buffer(side, file, 1)?.handle;
        let fd = export(side, file, handle)?;
        fine("GEM_CLOSE", side.gem_close(file, handle))?;
        refused("export of the closed", side.handle_to_fd(file, handle, 0), Errno::NOENT)?;
        expect_count(side, "the descriptor alone", fd, 1)?;
        side.close_fd(fd);
    }
    Ok(())
}

fn igt_prime_self_import_reimport_vs_gem_close(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (mut handle, fd) = exported(side, file)?;
    for _ in 0..500 {
        fine("GEM_CLOSE", side.gem_close(file, handle))?;
        handle = import(side, file, fd)?;
        expect_equal("the lowest number", handle, 1)?;
        expect_count(side, "taken anew", fd, 3)?;
    }
    Ok(())
}
