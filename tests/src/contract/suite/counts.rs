//! Reference counts: fdinfo's `count:` after each step of the contract's table, and after each close.

use anyhow::{Result, ensure};

use super::{
    buffer, cases, expect_count, expect_equal, export, exported, import, inode, render, square, vgem, vkms,
};
use crate::contract::{Contract, Fb2, Memory, PAGE, fine};

cases! {
    count_first_export_is_three,
    count_export_again_is_one_fd_more,
    count_self_import_same_file_is_free,
    count_self_import_other_file_is_one_more,
    count_self_import_render_node_is_one_more,
    count_foreign_import_is_three_more,
    count_foreign_import_again_is_free,
    count_foreign_import_of_another_file_is_three_more,
    count_mapping_is_one_more,
    count_last_close_of_an_import_is_three_less,
    count_last_close_of_the_exporter_is_two_less,
    count_closing_one_of_two_exporting_files_is_one_less,
    count_file_close_drops_its_references,
    count_udmabuf,
    count_framebuffer_takes_none,
    count_framebuffer_keeps_the_objects_after_the_handle,
    count_returns_after_a_thousand_rounds,
}

fn count_first_export_is_three(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    // The descriptor, the object's own and the file's cache.
    expect_count(side, "first export", fd, 3)
}

fn count_export_again_is_one_fd_more(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    let again = export(side, file, handle)?;
    expect_equal("inode", inode(side, again)?, inode(side, fd)?)?;
    expect_count(side, "second export", fd, 4)?;
    fine("dup", side.dup_fd(fd))?;
    // A dup is the same struct file, but one more reference on it.
    expect_count(side, "dup", fd, 5)?;
    side.close_fd(again);
    expect_count(side, "closed", fd, 4)
}

fn count_self_import_same_file_is_free(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (handle, fd) = exported(side, file)?;
    expect_equal("handle", import(side, file, fd)?, handle)?;
    expect_count(side, "self-import", fd, 3)
}

fn count_self_import_other_file_is_one_more(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vgem(side)?);
    let (_, fd) = exported(side, one)?;
    let handle = import(side, two, fd)?;
    expect_count(side, "self-import elsewhere", fd, 4)?;
    fine("GEM_CLOSE", side.gem_close(two, handle))?;
    expect_count(side, "closed there", fd, 3)
}

fn count_self_import_render_node_is_one_more(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, render(side)?);
    let (_, fd) = exported(side, one)?;
    import(side, two, fd)?;
    expect_count(side, "self-import on the render node", fd, 4)?;
    side.close_file(two);
    expect_count(side, "render node closed", fd, 3)
}

fn count_foreign_import_is_three_more(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (_, fd) = exported(side, exporter)?;
    import(side, importer, fd)?;
    expect_count(side, "foreign import", fd, 6)
}

fn count_foreign_import_again_is_free(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (_, fd) = exported(side, exporter)?;
    let handle = import(side, importer, fd)?;
    expect_equal("handle", import(side, importer, fd)?, handle)?;
    expect_count(side, "imported twice", fd, 6)
}

fn count_foreign_import_of_another_file_is_three_more(side: &mut dyn Contract) -> Result<()> {
    let (exporter, one, two) = (vgem(side)?, vkms(side)?, vkms(side)?);
    let (_, fd) = exported(side, exporter)?;
    let (a, b) = (import(side, one, fd)?, import(side, two, fd)?);
    // Two objects; that the numbers are equal means nothing.
    expect_equal("handles", (a, b), (1, 1))?;
    expect_count(side, "imported by two files", fd, 9)?;
    fine("GEM_CLOSE", side.gem_close(two, b))?;
    expect_count(side, "closed by one", fd, 6)
}

fn count_mapping_is_one_more(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    let one = fine("mmap", side.mmap(fd, 0, PAGE, true))?;
    expect_count(side, "one mapping", fd, 4)?;
    let two = fine("mmap", side.mmap(fd, 0, PAGE, false))?;
    expect_count(side, "two mappings", fd, 5)?;
    side.unmap(one);
    side.unmap(two);
    expect_count(side, "no mapping", fd, 3)
}

fn count_last_close_of_an_import_is_three_less(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (_, fd) = exported(side, exporter)?;
    let handle = import(side, importer, fd)?;
    let again = export(side, importer, handle)?;
    expect_count(side, "imported and exported", fd, 7)?;
    side.close_fd(again);
    fine("GEM_CLOSE", side.gem_close(importer, handle))?;
    expect_count(side, "closed", fd, 3)
}

fn count_last_close_of_the_exporter_is_two_less(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (handle, fd) = exported(side, exporter)?;
    import(side, importer, fd)?;
    fine("GEM_CLOSE", side.gem_close(exporter, handle))?;
    expect_count(side, "without the exporter's handle", fd, 4)
}

fn count_closing_one_of_two_exporting_files_is_one_less(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vgem(side)?);
    let (handle, fd) = exported(side, one)?;
    let other = import(side, two, fd)?;
    fine("GEM_CLOSE", side.gem_close(one, handle))?;
    expect_count(side, "the other file's handle holds the object's reference", fd, 3)?;
    fine("GEM_CLOSE", side.gem_close(two, other))?;
    expect_count(side, "no handle", fd, 1)
}

fn count_file_close_drops_its_references(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let handle = square(side, exporter)?.handle;
    let fd = export(side, exporter, handle)?;
    let import = import(side, importer, fd)?;
    fine("ADDFB2", side.addfb2(importer, &Fb2::xrgb(import, 64, 64)))?;
    expect_count(side, "imported", fd, 6)?;
    side.close_file(importer);
    expect_count(side, "importer closed", fd, 3)?;
    side.close_file(exporter);
    expect_count(side, "exporter closed", fd, 1)
}

fn count_udmabuf(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vkms(side)?);
    let fd = fine("UDMABUF_CREATE", side.udmabuf(Memory::Sealed(PAGE), 0, PAGE))?;
    // An exporter without handles: the descriptor is all there is.
    expect_count(side, "created", fd, 1)?;
    let (a, b) = (import(side, one, fd)?, import(side, two, fd)?);
    expect_count(side, "imported by two devices", fd, 7)?;
    fine("GEM_CLOSE", side.gem_close(one, a))?;
    fine("GEM_CLOSE", side.gem_close(two, b))?;
    expect_count(side, "closed", fd, 1)
}

fn count_framebuffer_takes_none(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let handle = square(side, exporter)?.handle;
    let fd = export(side, exporter, handle)?;
    let import = import(side, importer, fd)?;
    let id = fine("ADDFB2", side.addfb2(importer, &Fb2::xrgb(import, 64, 64)))?;
    expect_count(side, "with a framebuffer", fd, 6)?;
    let fresh = fine("GETFB2", side.getfb2(importer, id))?.handles[0];
    ensure!(fresh != import, "GETFB2 gave the import's handle");
    expect_count(side, "with a second handle", fd, 6)
}

fn count_framebuffer_keeps_the_objects_after_the_handle(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let handle = square(side, exporter)?.handle;
    let fd = export(side, exporter, handle)?;
    let import = import(side, importer, fd)?;
    let id = fine("ADDFB2", side.addfb2(importer, &Fb2::xrgb(import, 64, 64)))?;
    fine("GEM_CLOSE", side.gem_close(importer, import))?;
    // The framebuffer holds the object as a handle does; only the cache entry is gone.
    expect_count(side, "without the handle", fd, 5)?;
    fine("RMFB", side.rmfb(importer, id))?;
    expect_count(side, "without the framebuffer", fd, 3)
}

fn count_returns_after_a_thousand_rounds(side: &mut dyn Contract) -> Result<()> {
    let (one, two, importer) = (vgem(side)?, vgem(side)?, vkms(side)?);
    let handle = buffer(side, one, 4)?.handle;
    let fd = export(side, one, handle)?;
    for _ in 0..1000 {
        let own = import(side, two, fd)?;
        let foreign = import(side, importer, fd)?;
        let id = fine("ADDFB2", side.addfb2(importer, &Fb2::xrgb(foreign, 64, 64)))?;
        let again = export(side, importer, foreign)?;
        fine("GEM_CLOSE", side.gem_close(two, own))?;
        fine("GEM_CLOSE", side.gem_close(importer, foreign))?;
        side.close_fd(again);
        fine("RMFB", side.rmfb(importer, id))?;
    }
    expect_count(side, "after all", fd, 3)
}
