//! The invariants I1 to I14: what is one buffer, one file, one handle.

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{
    buffer, cases, count, expect_count, expect_equal, export, exported, first_byte, import, inode, render,
    square, vgem, vkms,
};
use crate::contract::{CAP_PRIME, Contract, Device, Fb2, FdArg, Memory, Node, PAGE, RDWR, fine, refused};

cases! {
    i01_one_close_ends_any_number_of_imports,
    i02_reexport_of_an_import_is_the_original,
    i03_identity_survives_the_fds_while_a_handle_lives,
    i03_identity_survives_the_handle_while_an_fd_lives,
    i04_the_lowest_free_handle_is_given_out_at_once,
    i04_handles_of_two_files_are_apart,
    i05_getfb2_handles_are_outside_dedupe,
    i05_gem_open_handles_are_outside_dedupe,
    i05_reimport_beside_a_second_handle_is_a_new_object,
    i06_the_first_export_fixes_the_access_mode,
    i07_file_flags_are_shared_by_all_fds,
    i08_the_framebuffer_outlives_the_handle_and_keeps_the_dmabuf,
    i09_the_dmabuf_outlives_handle_and_file,
    i10_inodes_are_not_reused,
    i10_a_dmabuf_cannot_be_reopened_and_tells_its_size,
    i11_kcmp_tells_dmabufs_apart,
    i12_one_handle_fills_several_planes,
    i12_two_objects_give_two_handles,
    i13_prime_says_three_everywhere,
    i14_only_ones_own_memory_is_mapped_by_map_dumb,
    a_duplicated_drm_fd_is_the_same_file,
    c2_every_export_joins_the_files_cache,
    c5_closing_a_second_handle_leaves_the_first_in_the_cache,
    c4_two_exported_handles_of_one_object_are_both_in_the_cache,
}

fn i01_one_close_ends_any_number_of_imports(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (_, fd) = exported(side, exporter)?;
    let handle = import(side, importer, fd)?;
    for _ in 0..5 {
        expect_equal("a further import", import(side, importer, fd)?, handle)?;
    }
    fine("GEM_CLOSE", side.gem_close(importer, handle))?;
    refused("export of it", side.handle_to_fd(importer, handle, 0), Errno::NOENT)?;
    refused("a second GEM_CLOSE", side.gem_close(importer, handle), Errno::INVAL)
}

fn i02_reexport_of_an_import_is_the_original(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (_, fd) = exported(side, exporter)?;
    let handle = import(side, importer, fd)?;
    let again = export(side, importer, handle)?;
    expect_equal("inode", inode(side, again)?, inode(side, fd)?)?;
    ensure!(fine("kcmp", side.same_file(fd, again))?, "another file");
    // What the importer exports, the exporter takes for its own.
    let back = import(side, exporter, again)?;
    expect_equal("the exporter's import of it", back, 1)
}

fn i03_identity_survives_the_fds_while_a_handle_lives(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    let first = inode(side, fd)?;
    side.close_fd(fd);
    let fd = export(side, file, handle)?;
    expect_equal("inode", inode(side, fd)?, first)?;
    expect_count(side, "exported again", fd, 3)
}

fn i03_identity_survives_the_handle_while_an_fd_lives(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    fine("fill", side.fill(fd, 7))?;
    let first = inode(side, fd)?;
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    expect_count(side, "without the handle", fd, 1)?;
    let handle = import(side, file, fd)?;
    let again = export(side, file, handle)?;
    expect_equal("inode", inode(side, again)?, first)?;
    expect_equal("contents", first_byte(side, again)?, 7)
}

fn i04_the_lowest_free_handle_is_given_out_at_once(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    for expected in 1..=5 {
        expect_equal("a new handle", buffer(side, file, 1)?.handle, expected)?;
    }
    for closed in [2, 4] {
        fine("GEM_CLOSE", side.gem_close(file, closed))?;
    }
    for expected in [2, 4, 6] {
        expect_equal("a new handle", buffer(side, file, 1)?.handle, expected)?;
    }
    Ok(())
}

fn i04_handles_of_two_files_are_apart(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vgem(side)?);
    let (handle, fd) = exported(side, one)?;
    let other = buffer(side, two, 2)?.handle;
    expect_equal("both numbers", (handle, other), (1, 1))?;
    let other_fd = export(side, two, other)?;
    ensure!(inode(side, fd)? != inode(side, other_fd)?, "one buffer behind both");
    refused("a number of the other file", side.gem_close(one, 2), Errno::INVAL)
}

fn i05_getfb2_handles_are_outside_dedupe(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = square(side, file)?.handle;
    let fd = export(side, file, handle)?;
    let id = fine("ADDFB2", side.addfb2(file, &Fb2::xrgb(handle, 64, 64)))?;
    let fresh = fine("GETFB2", side.getfb2(file, id))?.handles[0];
    expect_equal("GETFB2's handle", fresh, 2)?;
    expect_equal("GETFB's handle", fine("GETFB", side.getfb(file, id))?.handle, 3)?;
    expect_equal("the import", import(side, file, fd)?, handle)?;
    // All three name one object.
    let other = export(side, file, fresh)?;
    expect_equal("inode", inode(side, other)?, inode(side, fd)?)
}

fn i05_gem_open_handles_are_outside_dedupe(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    let name = fine("GEM_FLINK", side.flink(file, handle))?;
    expect_equal("a second name", fine("GEM_FLINK", side.flink(file, handle))?, name)?;
    let fresh = fine("GEM_OPEN", side.gem_open(file, name))?;
    expect_equal("GEM_OPEN's handle", fresh, 2)?;
    expect_equal("the import", import(side, file, fd)?, handle)?;
    refused("an unknown name", side.gem_open(file, 4711), Errno::NOENT)?;
    refused("a name for no handle", side.flink(file, 4711), Errno::NOENT)
}

fn i05_reimport_beside_a_second_handle_is_a_new_object(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let handle = square(side, exporter)?.handle;
    let fd = export(side, exporter, handle)?;
    let handle = import(side, importer, fd)?;
    let id = fine("ADDFB2", side.addfb2(importer, &Fb2::xrgb(handle, 64, 64)))?;
    let second = fine("GETFB2", side.getfb2(importer, id))?.handles[0];
    expect_count(side, "imported", fd, 6)?;
    fine("GEM_CLOSE", side.gem_close(importer, handle))?;
    expect_count(side, "without the first handle", fd, 5)?;
    let again = import(side, importer, fd)?;
    expect_equal("the number", again, handle)?;
    expect_count(side, "imported beside the second handle", fd, 8)?;
    // Both objects are one memory.
    let (a, b) = (export(side, importer, second)?, export(side, importer, again)?);
    expect_equal("inodes", inode(side, a)?, inode(side, b)?)
}

fn i06_the_first_export_fixes_the_access_mode(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, 1)?.handle;
    let reader = fine("HANDLE_TO_FD", side.handle_to_fd(file, handle, 0))?;
    let writer = export(side, file, handle)?;
    for fd in [reader, writer] {
        refused("a writable mapping", side.mmap(fd, 0, PAGE, true), Errno::ACCESS)?;
        let map = fine("a read-only mapping", side.mmap(fd, 0, PAGE, false))?;
        side.unmap(map);
    }
    // A new dma-buf of the same object chooses anew, in the other order.
    let (other, writer) = exported(side, file)?;
    let reader = fine("HANDLE_TO_FD", side.handle_to_fd(file, other, 0))?;
    for fd in [writer, reader] {
        let map = fine("a writable mapping", side.mmap(fd, 0, PAGE, true))?;
        side.unmap(map);
    }
    Ok(())
}

fn i07_file_flags_are_shared_by_all_fds(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (handle, fd) = exported(side, exporter)?;
    let again = export(side, exporter, handle)?;
    let imported = import(side, importer, fd)?;
    let through = export(side, importer, imported)?;
    ensure!(!fine("F_GETFL", side.nonblocking(fd))?, "O_NONBLOCK from the start");
    fine("F_SETFL", side.set_nonblocking(again, true))?;
    for fd in [fd, again, through] {
        ensure!(fine("F_GETFL", side.nonblocking(fd))?, "{fd:?} has flags of its own");
    }
    Ok(())
}

fn i08_the_framebuffer_outlives_the_handle_and_keeps_the_dmabuf(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = square(side, file)?.handle;
    let fd = export(side, file, handle)?;
    let first = inode(side, fd)?;
    side.close_fd(fd);
    let id = fine("ADDFB2", side.addfb2(file, &Fb2::xrgb(handle, 64, 64)))?;
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    refused("export without a handle", side.handle_to_fd(file, handle, 0), Errno::NOENT)?;
    let handle = fine("GETFB2", side.getfb2(file, id))?.handles[0];
    let fd = export(side, file, handle)?;
    expect_equal("inode", inode(side, fd)?, first)
}

fn i09_the_dmabuf_outlives_handle_and_file(side: &mut dyn Contract) -> Result<()> {
    let exporter = vgem(side)?;
    let (handle, fd) = exported(side, exporter)?;
    fine("fill", side.fill(fd, 9))?;
    let map = fine("mmap", side.mmap(fd, 0, PAGE, true))?;
    fine("GEM_CLOSE", side.gem_close(exporter, handle))?;
    side.close_file(exporter);
    expect_equal("contents", side.peek(map, 0), 9)?;
    side.poke(map, 0, 10);
    let importer = vkms(side)?;
    import(side, importer, fd)?;
    expect_equal("contents", first_byte(side, fd)?, 10)?;
    side.close_fd(fd);
    expect_equal("the mapping alone", side.peek(map, 0), 10)
}

fn i10_inodes_are_not_reused(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let mut last = 0;
    for _ in 0..2000 {
        let (handle, fd) = exported(side, file)?;
        let inode = inode(side, fd)?;
        ensure!(inode > last, "inode {inode} after {last}");
        last = inode;
        side.close_fd(fd);
        fine("GEM_CLOSE", side.gem_close(file, handle))?;
    }
    Ok(())
}

fn i10_a_dmabuf_cannot_be_reopened_and_tells_its_size(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    for pages in [1, 3] {
        let dumb = buffer(side, file, pages)?;
        let fd = export(side, file, dumb.handle)?;
        expect_equal("st_size", fine("fstat", side.size(fd))?, u64::from(pages) * PAGE)?;
        refused("open through /proc", side.reopen(fd), Errno::NXIO)?;
    }
    let udmabuf = fine("UDMABUF_CREATE", side.udmabuf(Memory::Sealed(2 * PAGE), 0, 2 * PAGE))?;
    expect_equal("st_size of a udmabuf", fine("fstat", side.size(udmabuf))?, 2 * PAGE)?;
    refused("open of a udmabuf through /proc", side.reopen(udmabuf), Errno::NXIO)
}

fn i11_kcmp_tells_dmabufs_apart(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (handle, fd) = exported(side, exporter)?;
    let (_, stranger) = exported(side, exporter)?;
    let imported = import(side, importer, fd)?;
    let dup = fine("dup", side.dup_fd(fd))?;
    let again = export(side, exporter, handle)?;
    let through = export(side, importer, imported)?;
    for other in [dup, again, through] {
        ensure!(fine("kcmp", side.same_file(fd, other))?, "{other:?} is another file");
        ensure!(!fine("kcmp", side.same_file(stranger, other))?, "{other:?} is the stranger's file");
    }
    Ok(())
}

fn i12_one_handle_fills_several_planes(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = buffer(side, file, 2)?.handle;
    let id = fine("ADDFB2", side.addfb2(file, &Fb2::nv12(handle, 64, 64)))?;
    let fb = fine("GETFB2", side.getfb2(file, id))?;
    expect_equal("handles", fb.handles, [2, 2, 0, 0])?;
    expect_equal("offsets", fb.offsets, [0, 64 * 64, 0, 0])?;
    expect_equal("pitches", fb.pitches, [64, 64, 0, 0])?;
    // One handle: one close.
    fine("GEM_CLOSE", side.gem_close(file, 2))?;
    refused("GEM_CLOSE again", side.gem_close(file, 2), Errno::INVAL)
}

fn i12_two_objects_give_two_handles(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let (a, b) = (buffer(side, file, 1)?.handle, buffer(side, file, 1)?.handle);
    let request = Fb2 { handles: [a, b, 0, 0], offsets: [0; 4], ..Fb2::nv12(a, 64, 64) };
    let id = fine("ADDFB2", side.addfb2(file, &request))?;
    expect_equal("handles", fine("GETFB2", side.getfb2(file, id))?.handles, [3, 4, 0, 0])
}

fn i13_prime_says_three_everywhere(side: &mut dyn Contract) -> Result<()> {
    for (device, node) in
        [(Device::Vgem, Node::Primary), (Device::Vgem, Node::Render), (Device::Vkms, Node::Primary)]
    {
        let file = fine("open", side.open(device, node))?;
        expect_equal("DRM_CAP_PRIME", fine("GET_CAP", side.get_cap(file, CAP_PRIME))?, 3)?;
    }
    Ok(())
}

fn i14_only_ones_own_memory_is_mapped_by_map_dumb(side: &mut dyn Contract) -> Result<()> {
    let (one, two, importer) = (vgem(side)?, vgem(side)?, vkms(side)?);
    let (_, fd) = exported(side, one)?;
    fine("fill", side.fill(fd, 3))?;
    let own = import(side, two, fd)?;
    let map = fine("MAP_DUMB of a self-import", side.mmap_dumb(two, own, PAGE))?;
    expect_equal("contents", side.peek(map, 0), 3)?;
    side.poke(map, 0, 4);
    expect_equal("contents", first_byte(side, fd)?, 4)?;
    let foreign = import(side, importer, fd)?;
    refused("MAP_DUMB of an import", side.map_dumb(importer, foreign), Errno::INVAL)
}

fn a_duplicated_drm_fd_is_the_same_file(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let dup = fine("dup", side.dup_file(file))?;
    let (handle, fd) = exported(side, file)?;
    expect_equal("the dup's import", import(side, dup, fd)?, handle)?;
    expect_count(side, "imported through the dup", fd, 3)?;
    side.close_file(file);
    let again = export(side, dup, handle)?;
    expect_equal("inode", inode(side, again)?, inode(side, fd)?)?;
    fine("GEM_CLOSE through the dup", side.gem_close(dup, handle))
}

/// A handle that came by a name, not by an import, is in the cache as soon as it is exported.
fn c2_every_export_joins_the_files_cache(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vgem(side)?);
    let handle = buffer(side, one, 1)?.handle;
    let name = fine("GEM_FLINK", side.flink(one, handle))?;
    let opened = fine("GEM_OPEN", side.gem_open(two, name))?;
    let fd = export(side, one, handle)?;
    let before = count(side, fd)?;
    let again = fine("HANDLE_TO_FD", side.handle_to_fd(two, opened, RDWR))?;
    expect_count(side, "fd and member of the second file", fd, before + 2)?;
    let imported = fine("FD_TO_HANDLE", side.fd_to_handle(two, FdArg::Dmabuf(again), 0))?;
    expect_equal("the second file's import", imported, opened)?;
    // Without it the render node would have got a second handle, too.
    let node = render(side)?;
    expect_equal("the render node's import", import(side, node, fd)?, 1)
}

fn c5_closing_a_second_handle_leaves_the_first_in_the_cache(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    let name = fine("GEM_FLINK", side.flink(file, handle))?;
    let second = fine("GEM_OPEN", side.gem_open(file, name))?;
    fine("GEM_CLOSE of the second", side.gem_close(file, second))?;
    expect_count(side, "one handle again", fd, 3)?;
    expect_equal("the import", import(side, file, fd)?, handle)
}

/// Which of the two an import finds is nobody's promise: the kernel's tree is ordered by the addresses of dma-bufs. It is one of
/// them, and no new one, until both are closed.
fn c4_two_exported_handles_of_one_object_are_both_in_the_cache(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    // Others make a tree of it.
    for _ in 0..8 {
        exported(side, file)?;
    }
    let (first, fd) = exported(side, file)?;
    let name = fine("GEM_FLINK", side.flink(file, first))?;
    let second = fine("GEM_OPEN", side.gem_open(file, name))?;
    let again = export(side, file, second)?;
    side.close_fd(again);
    for _ in 0..8 {
        exported(side, file)?;
    }
    expect_count(side, "two entries", fd, 4)?;
    let found = import(side, file, fd)?;
    ensure!(found == first || found == second, "handle {found}, neither {first} nor {second}");
    fine("GEM_CLOSE", side.gem_close(file, found))?;
    let other = if found == first { second } else { first };
    expect_equal("the other", import(side, file, fd)?, other)?;
    expect_count(side, "one entry", fd, 3)?;
    fine("GEM_CLOSE", side.gem_close(file, other))?;
    expect_count(side, "no entry", fd, 1)
}
