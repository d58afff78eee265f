//! prime_mmap and the mappings of vgem_basic: what a mapping shows, and what it outlives.

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{buffer, cases, expect_count, expect_equal, export, exported, first_byte, import, vgem, vkms};
use crate::contract::{
    CLOEXEC, Contract, Fd, FdArg, Memory, PAGE, RDWR, SYNC_END, SYNC_READ, SYNC_WRITE, fine, refused,
};

cases! {
    igt_prime_mmap_correct,
    igt_prime_mmap_map_unmap,
    igt_prime_mmap_reprime,
    igt_prime_mmap_forked,
    igt_prime_mmap_cpu_write,
    igt_prime_mmap_forked_cpu_write,
    igt_prime_mmap_refcounting,
    igt_prime_mmap_dup,
    igt_prime_mmap_errors,
    igt_prime_mmap_invalid_sync_flags,
    igt_vgem_basic_create,
    igt_vgem_basic_mmap_survives_close,
    igt_vgem_basic_dmabuf_export,
    igt_vgem_basic_dmabuf_mmap,
    udmabuf_mapping_honours_its_offset,
    udmabuf_shows_its_part_of_the_memory,
    shmem_mapping_ignores_its_offset,
}

const PAGES: u32 = 4;

/// A pattern that differs from page to page.
fn draw(side: &mut dyn Contract, fd: Fd) -> Result<()> {
    let map = fine("mmap", side.mmap(fd, 0, u64::from(PAGES) * PAGE, true))?;
    for offset in (0..u64::from(PAGES) * PAGE).step_by(1024) {
        side.poke(map, offset, pattern(offset));
    }
    side.unmap(map);
    Ok(())
}

fn pattern(offset: u64) -> u8 {
    (offset / 1024 * 7 + 1) as u8
}

fn expect_drawing(side: &mut dyn Contract, fd: Fd) -> Result<()> {
    let map = fine("mmap", side.mmap(fd, 0, u64::from(PAGES) * PAGE, false))?;
    for offset in (0..u64::from(PAGES) * PAGE).step_by(1024) {
        expect_equal(&format!("byte {offset}"), side.peek(map, offset), pattern(offset))?;
    }
    side.unmap(map);
    Ok(())
}

/// What is stored through the handle's own mapping is seen through the descriptor, and the other way round.
fn igt_prime_mmap_correct(side: &mut dyn Contract) -> Result<()> {
    for file in [vgem(side)?, vkms(side)?] {
        let dumb = buffer(side, file, PAGES)?;
        let own = fine("MAP_DUMB", side.mmap_dumb(file, dumb.handle, dumb.size))?;
        let fd = export(side, file, dumb.handle)?;
        for offset in (0..dumb.size).step_by(1024) {
            expect_equal("fresh memory", side.peek(own, offset), 0)?;
            side.poke(own, offset, pattern(offset));
        }
        expect_drawing(side, fd)?;
        fine("fill", side.fill(fd, 9))?;
        expect_equal("the last page", side.peek(own, dumb.size - PAGE), 9)?;
    }
    Ok(())
}

fn igt_prime_mmap_map_unmap(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, PAGES)?.handle;
    let fd = export(side, file, handle)?;
    draw(side, fd)?;
    expect_drawing(side, fd)?;
    // A mapping that was taken down is made anew and shows the same.
    expect_drawing(side, fd)?;
    expect_count(side, "nothing mapped", fd, 3)
}

fn igt_prime_mmap_reprime(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, PAGES)?.handle;
    let fd = export(side, file, handle)?;
    draw(side, fd)?;
    side.close_fd(fd);
    let fd = export(side, file, handle)?;
    expect_drawing(side, fd)
}

fn igt_prime_mmap_forked(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    let map = fine("mmap", side.mmap(fd, 0, PAGE, true))?;
    side.poke(map, 5, 50);
    expect_equal("the child's view", fine("fork", side.poke_forked(map, 5, 51))?, 50)?;
    expect_equal("the parent's view", side.peek(map, 5), 51)?;
    expect_count(side, "after the child's end", fd, 4)?;
    // The child holds its own reference on what it has mapped.
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    expect_equal("without a handle", fine("fork", side.poke_forked(map, 5, 52))?, 51)
}

fn cpu_write(side: &mut dyn Contract, forked: bool) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let handle = buffer(side, exporter, PAGES)?.handle;
    let fd = export(side, exporter, handle)?;
    import(side, importer, fd)?;
    let map = fine("mmap", side.mmap(fd, 0, u64::from(PAGES) * PAGE, true))?;
    let own = fine("MAP_DUMB", side.mmap_dumb(exporter, handle, u64::from(PAGES) * PAGE))?;
    for page in 0..u64::from(PAGES) {
        fine("SYNC start", side.sync(fd, SYNC_READ | SYNC_WRITE))?;
        if forked {
            expect_equal("before", fine("fork", side.poke_forked(map, page * PAGE, 20))?, 0)?;
        } else {
            side.poke(map, page * PAGE, 20);
        }
        fine("SYNC end", side.sync(fd, SYNC_READ | SYNC_WRITE | SYNC_END))?;
        expect_equal("through the handle", side.peek(own, page * PAGE), 20)?;
    }
    Ok(())
}

fn igt_prime_mmap_cpu_write(side: &mut dyn Contract) -> Result<()> {
    cpu_write(side, false)
}

fn igt_prime_mmap_forked_cpu_write(side: &mut dyn Contract) -> Result<()> {
    cpu_write(side, true)
}

/// The mapping holds the memory: it outlives the handle, the file and the descriptor.
fn igt_prime_mmap_refcounting(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, PAGES)?.handle;
    let fd = export(side, file, handle)?;
    draw(side, fd)?;
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    expect_drawing(side, fd)?;
    let map = fine("mmap after GEM_CLOSE", side.mmap(fd, 0, PAGE, true))?;
    expect_count(side, "descriptor and mapping", fd, 2)?;
    side.close_file(file);
    side.close_fd(fd);
    expect_equal("the mapping alone", side.peek(map, 1024), pattern(1024))?;
    side.poke(map, 1024, 3);
    expect_equal("the mapping alone", side.peek(map, 1024), 3)
}

fn igt_prime_mmap_dup(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, PAGES)?.handle;
    let fd = export(side, file, handle)?;
    draw(side, fd)?;
    let dup = fine("dup", side.dup_fd(fd))?;
    side.close_fd(fd);
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    expect_drawing(side, dup)
}

fn igt_prime_mmap_errors(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let dumb = buffer(side, file, PAGES)?;
    for flags in [RDWR - 1, RDWR + 1, CLOEXEC - 1, CLOEXEC + 1] {
        refused("flags off by one", side.handle_to_fd(file, dumb.handle, flags), Errno::INVAL)?;
    }
    fine("GEM_CLOSE", side.gem_close(file, dumb.handle))?;
    refused("a closed handle", side.handle_to_fd(file, dumb.handle, CLOEXEC), Errno::NOENT)?;
    refused("a closed descriptor", side.fd_to_handle(file, FdArg::Bad, 0), Errno::BADF)?;
    let handle = buffer(side, file, PAGES)?.handle;
    let fd = export(side, file, handle)?;
    refused("twice the size", side.mmap(fd, 0, 2 * dumb.size, true), Errno::INVAL)?;
    refused("half over the end", side.mmap(fd, dumb.size / 2, dumb.size, true), Errno::INVAL)?;
    let reader = buffer(side, file, PAGES)?.handle;
    let reader = fine("HANDLE_TO_FD", side.handle_to_fd(file, reader, CLOEXEC))?;
    refused("writing what was exported for reading", side.mmap(reader, 0, PAGE, true), Errno::ACCESS)
}

fn igt_prime_mmap_invalid_sync_flags(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    let known = SYNC_READ | SYNC_WRITE | SYNC_END;
    for flags in [0, SYNC_END, known + 1, !known, !0] {
        refused(&format!("SYNC {flags:#x}"), side.sync(fd, flags), Errno::INVAL)?;
    }
    Ok(())
}

fn igt_vgem_basic_create(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    refused("0x0", side.create_dumb(file, 0, 0, 0), Errno::INVAL)?;
    let dumb = fine("1x1", side.create_dumb(file, 1, 1, 32))?;
    ensure!(dumb.handle != 0 && dumb.size == PAGE && dumb.pitch == 4, "{dumb:?}");
    Ok(())
}

fn igt_vgem_basic_mmap_survives_close(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let dumb = buffer(side, file, 1)?;
    let map = fine("MAP_DUMB", side.mmap_dumb(file, dumb.handle, dumb.size))?;
    side.poke(map, 0, 77);
    fine("GEM_CLOSE", side.gem_close(file, dumb.handle))?;
    expect_equal("after GEM_CLOSE", side.peek(map, 0), 77)?;
    side.close_file(file);
    expect_equal("after the file's close", side.peek(map, 0), 77)
}

fn igt_vgem_basic_dmabuf_export(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vgem(side)?);
    let (handle, fd) = exported(side, exporter)?;
    let other = import(side, importer, fd)?;
    side.close_fd(fd);
    let one = fine("MAP_DUMB", side.mmap_dumb(exporter, handle, PAGE))?;
    let two = fine("MAP_DUMB", side.mmap_dumb(importer, other, PAGE))?;
    for value in 0..16 {
        side.poke(one, u64::from(value) * 4, value);
        expect_equal("the importer's view", side.peek(two, u64::from(value) * 4), value)?;
    }
    Ok(())
}

fn igt_vgem_basic_dmabuf_mmap(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    let map = fine("mmap", side.mmap(fd, 0, PAGE, true))?;
    side.close_fd(fd);
    let own = fine("MAP_DUMB", side.mmap_dumb(file, handle, PAGE))?;
    side.poke(own, 8, 8);
    expect_equal("the mapping of the closed descriptor", side.peek(map, 8), 8)
}

fn udmabuf_mapping_honours_its_offset(side: &mut dyn Contract) -> Result<()> {
    let fd = fine("UDMABUF_CREATE", side.udmabuf(Memory::Sealed(4 * PAGE), 0, 4 * PAGE))?;
    draw(side, fd)?;
    let map = fine("mmap", side.mmap(fd, 2 * PAGE, PAGE, false))?;
    expect_equal("the third page", side.peek(map, 0), pattern(2 * PAGE))
}

fn udmabuf_shows_its_part_of_the_memory(side: &mut dyn Contract) -> Result<()> {
    let fd = fine("UDMABUF_CREATE", side.udmabuf(Memory::Sealed(4 * PAGE), PAGE, 2 * PAGE))?;
    expect_equal("fresh memory", first_byte(side, fd)?, 0)?;
    fine("fill", side.fill(fd, 1))?;
    let file = vgem(side)?;
    let handle = import(side, file, fd)?;
    let again = export(side, file, handle)?;
    expect_equal("through the import", first_byte(side, again)?, 1)
}

fn shmem_mapping_ignores_its_offset(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, PAGES)?.handle;
    let fd = export(side, file, handle)?;
    draw(side, fd)?;
    let map = fine("mmap", side.mmap(fd, 2 * PAGE, PAGE, false))?;
    // When a kernel mends this, the rule to map from 0 only can go.
    expect_equal("the bug", side.peek(map, 0), pattern(0))
}
