//! Framebuffers once they exist: kms_getfb, kms_rmfb and kms_prime of intel-gpu-tools.

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::{buffer, cases, expect_equal, export, exported, import, inode, square, vgem, vkms};
use crate::contract::{Contract, FB_MODIFIERS, Fb2, File, XRGB8888, fine, refused};

cases! {
    igt_kms_getfb_getfb_handle_closed,
    igt_kms_getfb_getfb_handle_not_fb,
    igt_kms_getfb_getfb_addfb_different_handles,
    igt_kms_getfb_getfb_repeated_different_handles,
    igt_kms_getfb_getfb_reject_nv12,
    igt_kms_getfb_getfb2_handle_zero_and_closed,
    igt_kms_getfb_getfb2_nv12_same_handle,
    igt_kms_getfb_getfb2_into_addfb2,
    igt_kms_getfb_getfb_handle_protection,
    getfb_of_another_file_gives_it_a_handle,
    igt_kms_rmfb_rmfb_ioctl,
    igt_kms_rmfb_close_fd,
    closefb_leaves_the_display_on,
    show_is_the_masters_alone,
    igt_kms_prime_basic_crc,
    close_of_a_file_takes_its_framebuffers,
    ids_of_framebuffers_are_the_devices,
}

fn added(side: &mut dyn Contract, file: File) -> Result<(u32, u32)> {
    let handle = square(side, file)?.handle;
    Ok((handle, fine("ADDFB2", side.addfb2(file, &Fb2::xrgb(handle, 64, 64)))?))
}

fn igt_kms_getfb_getfb_handle_closed(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let (handle, id) = added(side, file)?;
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    let info = fine("GETFB", side.getfb(file, id))?;
    expect_equal("handle", info.handle, 1)?;
    expect_equal("size", (info.width, info.height, info.pitch), (64, 64, 256))?;
    expect_equal("depth", (info.bpp, info.depth), (32, 24))?;
    fine("RMFB", side.rmfb(file, id))?;
    refused("GETFB of the removed", side.getfb(file, id), Errno::NOENT)
}

fn igt_kms_getfb_getfb_handle_not_fb(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    for id in [0, 9999, u32::MAX] {
        refused("GETFB", side.getfb(file, id), Errno::NOENT)?;
        refused("GETFB2", side.getfb2(file, id), Errno::NOENT)?;
    }
    Ok(())
}

fn igt_kms_getfb_getfb_addfb_different_handles(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let (handle, id) = added(side, file)?;
    let fresh = fine("GETFB", side.getfb(file, id))?.handle;
    ensure!(fresh != 0 && fresh != handle, "handle {fresh} beside {handle}");
    fine("GEM_CLOSE of the fresh one", side.gem_close(file, fresh))?;
    export(side, file, handle).map(drop)
}

fn igt_kms_getfb_getfb_repeated_different_handles(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let (_, id) = added(side, file)?;
    for expected in 2..8 {
        let handle = if expected % 2 == 0 {
            fine("GETFB", side.getfb(file, id))?.handle
        } else {
            fine("GETFB2", side.getfb2(file, id))?.handles[0]
        };
        expect_equal("a fresh handle", handle, expected)?;
    }
    Ok(())
}

fn igt_kms_getfb_getfb_reject_nv12(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = buffer(side, file, 2)?.handle;
    let id = fine("ADDFB2", side.addfb2(file, &Fb2::nv12(handle, 64, 64)))?;
    refused("GETFB of two planes", side.getfb(file, id), Errno::INVAL)?;
    // It left no handle behind.
    expect_equal("the next handle", buffer(side, file, 1)?.handle, 2)
}

fn igt_kms_getfb_getfb2_handle_zero_and_closed(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    refused("GETFB2 of 0", side.getfb2(file, 0), Errno::NOENT)?;
    let (handle, id) = added(side, file)?;
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    expect_equal("handles", fine("GETFB2", side.getfb2(file, id))?.handles, [1, 0, 0, 0])?;
    fine("RMFB", side.rmfb(file, id))?;
    refused("GETFB2 of the removed", side.getfb2(file, id), Errno::NOENT)
}

fn igt_kms_getfb_getfb2_nv12_same_handle(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = buffer(side, file, 2)?.handle;
    let id = fine("ADDFB2", side.addfb2(file, &Fb2::nv12(handle, 64, 64)))?;
    let handles = fine("GETFB2", side.getfb2(file, id))?.handles;
    expect_equal("handles of one object", handles, [2, 2, 0, 0])
}

fn igt_kms_getfb_getfb2_into_addfb2(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let nv12 = buffer(side, file, 2)?.handle;
    let nv12 = Fb2 { offsets: [0, 4096, 0, 0], ..Fb2::nv12(nv12, 64, 64) };
    let xrgb = Fb2 { pitches: [512, 0, 0, 0], ..Fb2::xrgb(square(side, file)?.handle, 64, 32) };
    let flags = if side.caps().modifiers { FB_MODIFIERS } else { 0 };
    for request in [nv12, xrgb] {
        let id = fine("ADDFB2", side.addfb2(file, &request))?;
        let told = fine("GETFB2", side.getfb2(file, id))?;
        expect_equal(
            "what GETFB2 tells",
            Fb2 { handles: request.handles, ..told },
            Fb2 { flags, ..request },
        )?;
        let again = fine("ADDFB2 of what GETFB2 told", side.addfb2(file, &told))?;
        ensure!(again != id, "one id for two framebuffers");
        let repeated = fine("GETFB2", side.getfb2(file, again))?;
        expect_equal("told again", Fb2 { handles: told.handles, ..repeated }, told)?;
    }
    Ok(())
}

fn igt_kms_getfb_getfb_handle_protection(side: &mut dyn Contract) -> Result<()> {
    let (master, other) = (vkms(side)?, vkms(side)?);
    let (_, id) = added(side, other)?;
    fine("capset", side.set_admin(false))?;
    let answers =
        (side.getfb(other, id), side.getfb2(other, id), side.getfb(master, id), side.getfb2(master, id));
    fine("capset", side.set_admin(true))?;
    expect_equal("GETFB's handle", fine("GETFB", answers.0)?.handle, 0)?;
    let told = fine("GETFB2", answers.1)?;
    expect_equal("GETFB2's handles", told.handles, [0; 4])?;
    expect_equal("GETFB2's size", (told.width, told.format), (64, XRGB8888))?;
    // The master is told.
    expect_equal("GETFB's handle", fine("GETFB", answers.2)?.handle, 1)?;
    expect_equal("GETFB2's handles", fine("GETFB2", answers.3)?.handles, [2, 0, 0, 0])
}

fn getfb_of_another_file_gives_it_a_handle(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vkms(side)?, vkms(side)?);
    let (handle, id) = added(side, one)?;
    let fd = export(side, one, handle)?;
    let fresh = fine("GETFB2", side.getfb2(two, id))?.handles[0];
    expect_equal("its first handle", fresh, 1)?;
    let other = export(side, two, fresh)?;
    expect_equal("inode", inode(side, other)?, inode(side, fd)?)?;
    expect_equal("its import", import(side, two, fd)?, fresh)
}

/// A framebuffer as large as the mode, filled.
fn full(side: &mut dyn Contract, file: File, value: u8) -> Result<u32> {
    let dumb = fine("CREATE_DUMB", side.create_dumb(file, 1024, 768, 32))?;
    paint(side, file, dumb.handle, dumb.size, value)?;
    fine("ADDFB2", side.addfb2(file, &Fb2::xrgb(dumb.handle, 1024, 768)))
}

fn paint(side: &mut dyn Contract, file: File, handle: u32, size: u64, value: u8) -> Result<()> {
    let map = fine("MAP_DUMB", side.mmap_dumb(file, handle, size))?;
    side.flood(map, value);
    side.unmap(map);
    Ok(())
}

fn igt_kms_rmfb_rmfb_ioctl(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let id = full(side, file, 1)?;
    fine("SETCRTC", side.show(file, id))?;
    expect_equal("CRTC and plane", fine("GETPLANE", side.shown(file))?, (id, id))?;
    fine("RMFB", side.rmfb(file, id))?;
    expect_equal("CRTC and plane", fine("GETPLANE", side.shown(file))?, (0, 0))
}

fn igt_kms_rmfb_close_fd(side: &mut dyn Contract) -> Result<()> {
    let (owner, looker) = (vkms(side)?, vkms(side)?);
    let id = full(side, owner, 1)?;
    fine("SETCRTC", side.show(owner, id))?;
    expect_equal("CRTC and plane", fine("GETPLANE", side.shown(looker))?, (id, id))?;
    side.close_file(owner);
    expect_equal("CRTC and plane", fine("GETPLANE", side.shown(looker))?, (0, 0))
}

fn closefb_leaves_the_display_on(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let (old, new) = (full(side, file, 1)?, full(side, file, 2)?);
    fine("SETCRTC", side.show(file, old))?;
    let before = side.picture(file)?;
    if !side.caps().closefb {
        return refused("CLOSEFB", side.closefb(file, old, 0), Errno::INVAL);
    }
    fine("CLOSEFB", side.closefb(file, old, 0))?;
    expect_equal("CRTC and plane", fine("GETPLANE", side.shown(file))?, (old, old))?;
    expect_equal("the picture", side.picture(file)?, before)?;
    // The display's reference is the last: with it goes the framebuffer.
    fine("SETCRTC", side.show(file, new))?;
    expect_equal("CRTC and plane", fine("GETPLANE", side.shown(file))?, (new, new))?;
    refused("RMFB of the closed", side.rmfb(file, old), Errno::NOENT)?;
    fine("RMFB", side.rmfb(file, new))
}

fn show_is_the_masters_alone(side: &mut dyn Contract) -> Result<()> {
    let (master, other) = (vkms(side)?, vkms(side)?);
    let id = full(side, other, 1)?;
    refused("SETCRTC without master", side.show(other, id), Errno::ACCESS)?;
    // The master shows what another file made.
    fine("SETCRTC", side.show(master, id))?;
    fine("DROP_MASTER", side.set_master(master, false))?;
    refused("SETCRTC after DROP_MASTER", side.show(master, id), Errno::ACCESS)?;
    fine("SET_MASTER", side.set_master(other, true))?;
    fine("RMFB", side.rmfb(other, id))
}

/// The same colour gives the same CRC through PRIME and directly, and another colour another.
fn igt_kms_prime_basic_crc(side: &mut dyn Contract) -> Result<()> {
    let (exporter, display) = (vgem(side)?, vkms(side)?);
    let source = fine("CREATE_DUMB", side.create_dumb(exporter, 1024, 768, 32))?;
    let fd = export(side, exporter, source.handle)?;
    let imported = import(side, display, fd)?;
    let through = fine("ADDFB2", side.addfb2(display, &Fb2::xrgb(imported, 1024, 768)))?;
    let mut seen = Vec::new();
    for value in [0x00, 0x55, 0xff] {
        paint(side, exporter, source.handle, source.size, value)?;
        fine("SETCRTC", side.show(display, through))?;
        let prime = side.picture(display)?;
        let direct = full(side, display, value)?;
        fine("SETCRTC", side.show(display, direct))?;
        expect_equal("the direct CRC", side.picture(display)?, prime)?;
        ensure!(!seen.contains(&prime), "two colours have the CRC {prime:#x}");
        seen.push(prime);
    }
    Ok(())
}

fn close_of_a_file_takes_its_framebuffers(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vkms(side)?, vkms(side)?);
    let (_, id) = added(side, one)?;
    fine("GETFB2", side.getfb2(two, id))?;
    side.close_file(one);
    refused("GETFB2", side.getfb2(two, id), Errno::NOENT)
}

fn ids_of_framebuffers_are_the_devices(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vkms(side)?, vkms(side)?);
    let ((_, a), (_, b)) = (added(side, one)?, added(side, two)?);
    ensure!(a != b, "one id for two files' framebuffers");
    // The lowest free id is given out at once, as with handles.
    fine("RMFB", side.rmfb(one, a))?;
    let (handle, fd) = exported(side, two)?;
    side.close_fd(fd);
    let again = fine("ADDFB2", side.addfb2(two, &Fb2::xrgb(handle, 32, 32)))?;
    expect_equal("the id", again, a)
}
