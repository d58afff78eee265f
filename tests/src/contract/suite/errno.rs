//! Every errno row of the contract but `ADDFB2`'s (`addfb`) and those of fences (`fences`).

use anyhow::Result;
use rustix::io::Errno;

use super::{buffer, cases, expect_equal, export, exported, import, render, square, vgem, vkms};
use crate::contract::{
    CAP_ADDFB2_MODIFIERS, CAP_DUMB_BUFFER, CLOEXEC, Contract, Device, Fb2, FdArg, Memory, Node, PAGE, RDWR,
    SYNC_END, SYNC_READ, SYNC_WRITE, Whence, fine, refused,
};

cases! {
    h2f_flags_come_before_everything,
    h2f_emfile_comes_before_enoent,
    h2f_bad_zero_and_closed_handles_are_enoent,
    h2f_takes_its_two_flags,
    f2h_bad_descriptors_are_ebadf,
    f2h_what_is_no_dmabuf_is_einval,
    f2h_ignores_its_flags,
    f2h_needs_no_descriptor,
    gem_close_of_nothing_is_einval,
    change_handle_is_einval,
    fbs_unknown_repeated_and_others_are_enoent,
    closefb_padding_is_einval,
    fbs_without_modeset_are_eopnotsupp,
    render_node_refuses_dumb_buffers_fbs_and_names,
    vkms_has_no_render_node,
    capabilities_answer_or_refuse,
    create_dumb_refuses_senseless_sizes,
    dumb_calls_of_no_handle,
    dmabuf_mmap_past_the_end_is_einval,
    dmabuf_seeks_to_start_and_end_only,
    dmabuf_is_neither_read_written_nor_truncated,
    dmabuf_sync_wants_a_direction_and_no_more,
    dmabuf_unknown_ioctl_is_enotty,
    udmabuf_bad_memory_and_bad_ranges,
}

const NOWHERE: u32 = 4711;

fn h2f_flags_come_before_everything(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, 1)?.handle;
    for flags in [1, 4, RDWR + 1, CLOEXEC - 1, CLOEXEC + 1, 1 << 31, u32::MAX] {
        refused("bad flags", side.handle_to_fd(file, handle, flags), Errno::INVAL)?;
        refused("bad flags, no handle", side.handle_to_fd(file, NOWHERE, flags), Errno::INVAL)?;
    }
    side.limit_fds(Some(0));
    let answer = side.handle_to_fd(file, NOWHERE, 1);
    side.limit_fds(None);
    refused("bad flags, no handle, no descriptor", answer, Errno::INVAL)
}

fn h2f_emfile_comes_before_enoent(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (handle, fd) = exported(side, exporter)?;
    let fresh = buffer(side, exporter, 1)?.handle;
    let imported = import(side, importer, fd)?;
    side.limit_fds(Some(0));
    for (file, handle) in
        [(exporter, NOWHERE), (exporter, 0), (exporter, handle), (exporter, fresh), (importer, imported)]
    {
        refused("no descriptor left", side.handle_to_fd(file, handle, RDWR), Errno::MFILE)?;
    }
    refused("dup", side.dup_fd(fd), Errno::MFILE)?;
    side.limit_fds(Some(1));
    let one = export(side, exporter, fresh)?;
    refused("one descriptor, and it is taken", side.handle_to_fd(exporter, fresh, 0), Errno::MFILE)?;
    side.limit_fds(None);
    // Nothing that failed left a reference.
    expect_equal("count", fine("count", side.count(fd))?, 6)?;
    expect_equal("count", fine("count", side.count(one))?, 3)
}

fn h2f_bad_zero_and_closed_handles_are_enoent(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, 1)?.handle;
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    for handle in [0, handle, NOWHERE, i32::MAX as u32, u32::MAX] {
        refused("no such handle", side.handle_to_fd(file, handle, 0), Errno::NOENT)?;
    }
    Ok(())
}

fn h2f_takes_its_two_flags(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, 1)?.handle;
    for flags in [0, CLOEXEC, RDWR, CLOEXEC | RDWR] {
        let fd = fine("HANDLE_TO_FD", side.handle_to_fd(file, handle, flags))?;
        side.close_fd(fd);
    }
    Ok(())
}

fn f2h_bad_descriptors_are_ebadf(side: &mut dyn Contract) -> Result<()> {
    for file in [vgem(side)?, vkms(side)?, render(side)?] {
        refused("no descriptor", side.fd_to_handle(file, FdArg::Bad, 0), Errno::BADF)?;
        refused("O_PATH", side.fd_to_handle(file, FdArg::OPath, 0), Errno::BADF)?;
    }
    Ok(())
}

fn f2h_what_is_no_dmabuf_is_einval(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vkms(side)?);
    for file in [one, two] {
        for arg in [FdArg::DevNull, FdArg::Memfd, FdArg::Drm(one), FdArg::Drm(two)] {
            refused(&format!("{arg:?}"), side.fd_to_handle(file, arg, 0), Errno::INVAL)?;
        }
    }
    Ok(())
}

fn f2h_ignores_its_flags(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (_, fd) = exported(side, exporter)?;
    for flags in [0, 1, CLOEXEC, u32::MAX] {
        let handle = fine("FD_TO_HANDLE", side.fd_to_handle(importer, FdArg::Dmabuf(fd), flags))?;
        expect_equal("handle", handle, 1)?;
    }
    Ok(())
}

fn f2h_needs_no_descriptor(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (_, fd) = exported(side, exporter)?;
    side.limit_fds(Some(0));
    let handle = side.fd_to_handle(importer, FdArg::Dmabuf(fd), 0);
    side.limit_fds(None);
    expect_equal("handle", fine("FD_TO_HANDLE", handle)?, 1)
}

fn gem_close_of_nothing_is_einval(side: &mut dyn Contract) -> Result<()> {
    for file in [vgem(side)?, vkms(side)?, render(side)?] {
        for handle in [0, 1, NOWHERE, u32::MAX] {
            refused("no such handle", side.gem_close(file, handle), Errno::INVAL)?;
        }
    }
    let file = vgem(side)?;
    let handle = buffer(side, file, 1)?.handle;
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    refused("twice", side.gem_close(file, handle), Errno::INVAL)
}

fn change_handle_is_einval(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, 1)?.handle;
    for (old, new) in [(handle, 7), (handle, handle), (NOWHERE, 7), (0, 0)] {
        refused("GEM_CHANGE_HANDLE", side.change_handle(file, old, new), Errno::INVAL)?;
    }
    // It changed nothing.
    export(side, file, handle).map(drop)
}

fn fbs_unknown_repeated_and_others_are_enoent(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vkms(side)?, vkms(side)?);
    let closefb = side.caps().closefb;
    let gone = if closefb { Errno::NOENT } else { Errno::INVAL };
    for id in [0, NOWHERE, u32::MAX] {
        refused("RMFB", side.rmfb(one, id), Errno::NOENT)?;
        refused("CLOSEFB", side.closefb(one, id, 0), gone)?;
        refused("GETFB", side.getfb(one, id), Errno::NOENT)?;
        refused("GETFB2", side.getfb2(one, id), Errno::NOENT)?;
    }
    let handle = square(side, one)?.handle;
    let id = fine("ADDFB2", side.addfb2(one, &Fb2::xrgb(handle, 64, 64)))?;
    refused("RMFB of another file's", side.rmfb(two, id), Errno::NOENT)?;
    refused("CLOSEFB of another file's", side.closefb(two, id, 0), gone)?;
    fine("RMFB", side.rmfb(one, id))?;
    refused("RMFB twice", side.rmfb(one, id), Errno::NOENT)?;
    refused("CLOSEFB after RMFB", side.closefb(one, id, 0), gone)?;
    if !closefb {
        return Ok(());
    }
    let id = fine("ADDFB2", side.addfb2(one, &Fb2::xrgb(handle, 64, 64)))?;
    fine("CLOSEFB", side.closefb(one, id, 0))?;
    refused("CLOSEFB twice", side.closefb(one, id, 0), Errno::NOENT)?;
    refused("RMFB after CLOSEFB", side.rmfb(one, id), Errno::NOENT)
}

fn closefb_padding_is_einval(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = square(side, file)?.handle;
    let id = fine("ADDFB2", side.addfb2(file, &Fb2::xrgb(handle, 64, 64)))?;
    refused("CLOSEFB with padding", side.closefb(file, id, 1), Errno::INVAL)?;
    refused("CLOSEFB of nothing with padding", side.closefb(file, NOWHERE, 1), Errno::INVAL)?;
    fine("the framebuffer is still there", side.rmfb(file, id))
}

fn fbs_without_modeset_are_eopnotsupp(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = square(side, file)?.handle;
    let missing = Errno::OPNOTSUPP;
    refused("ADDFB2", side.addfb2(file, &Fb2::xrgb(handle, 64, 64)), missing)?;
    refused("ADDFB2 of nonsense", side.addfb2(file, &Fb2 { flags: u32::MAX, ..Fb2::default() }), missing)?;
    refused("RMFB", side.rmfb(file, 1), missing)?;
    let closefb = if side.caps().closefb { missing } else { Errno::INVAL };
    refused("CLOSEFB", side.closefb(file, 1, 0), closefb)?;
    refused("GETFB", side.getfb(file, 1), missing)?;
    // The one of the family that answers otherwise.
    refused("GETFB2", side.getfb2(file, 1), Errno::INVAL)
}

fn render_node_refuses_dumb_buffers_fbs_and_names(side: &mut dyn Contract) -> Result<()> {
    let (file, primary) = (render(side)?, vgem(side)?);
    let (_, fd) = exported(side, primary)?;
    let handle = import(side, file, fd)?;
    let denied = Errno::ACCESS;
    refused("CREATE_DUMB", side.create_dumb(file, 64, 64, 32), denied)?;
    refused("MAP_DUMB", side.map_dumb(file, handle), denied)?;
    refused("DESTROY_DUMB", side.destroy_dumb(file, handle), denied)?;
    refused("ADDFB2", side.addfb2(file, &Fb2::xrgb(handle, 32, 32)), denied)?;
    refused("RMFB", side.rmfb(file, 1), denied)?;
    refused("GETFB", side.getfb(file, 1), denied)?;
    refused("GETFB2", side.getfb2(file, 1), denied)?;
    let closefb = if side.caps().closefb { denied } else { Errno::INVAL };
    refused("CLOSEFB", side.closefb(file, 1, 0), closefb)?;
    refused("GEM_FLINK", side.flink(file, handle), denied)?;
    refused("GEM_OPEN", side.gem_open(file, 1), denied)?;
    // PRIME and GEM_CLOSE are what it is for.
    let again = export(side, file, handle)?;
    side.close_fd(again);
    fine("GEM_CLOSE", side.gem_close(file, handle))
}

fn vkms_has_no_render_node(side: &mut dyn Contract) -> Result<()> {
    refused("open", side.open(Device::Vkms, Node::Render), Errno::NOENT)
}

fn capabilities_answer_or_refuse(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vgem(side)?, vkms(side)?);
    refused("an unknown capability", side.get_cap(two, 0xdead), Errno::INVAL)?;
    // vgem makes dumb buffers, but the question is only answered by drivers with a display.
    refused("vgem's CAP_DUMB_BUFFER", side.get_cap(one, CAP_DUMB_BUFFER), Errno::OPNOTSUPP)?;
    refused("vgem's CAP_ADDFB2_MODIFIERS", side.get_cap(one, CAP_ADDFB2_MODIFIERS), Errno::OPNOTSUPP)?;
    expect_equal("vkms' CAP_DUMB_BUFFER", fine("GET_CAP", side.get_cap(two, CAP_DUMB_BUFFER))?, 1)?;
    let modifiers = fine("GET_CAP", side.get_cap(two, CAP_ADDFB2_MODIFIERS))?;
    expect_equal("vkms' CAP_ADDFB2_MODIFIERS", modifiers, u64::from(side.caps().modifiers))
}

fn create_dumb_refuses_senseless_sizes(side: &mut dyn Contract) -> Result<()> {
    for file in [vgem(side)?, vkms(side)?] {
        for (width, height, bpp) in [
            (0, 0, 32),
            (0, 64, 32),
            (64, 0, 32),
            (64, 64, 0),
            (u32::MAX, 1, 32),
            (1, u32::MAX, 32),
            (0x1_0000, 0x1_0000, 32),
            (0x4000_0000, 1, 32),
            (1, 1, u32::MAX),
            // Its last row ends within a page of 4 GiB, which rounds to nothing.
            (0xffff_fff0 / 4, 1, 32),
        ] {
            let what = format!("{width}x{height} of {bpp} bits");
            refused(&what, side.create_dumb(file, width, height, bpp), Errno::INVAL)?;
        }
        for (bpp, pitch) in [(8, 64), (16, 128), (24, 192), (32, 256)] {
            let dumb = fine("CREATE_DUMB", side.create_dumb(file, 64, 64, bpp))?;
            let size = (u64::from(pitch) * 64).next_multiple_of(PAGE);
            expect_equal("pitch and size", (dumb.pitch, dumb.size), (pitch, size))?;
        }
    }
    Ok(())
}

fn dumb_calls_of_no_handle(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    for handle in [0, NOWHERE] {
        refused("MAP_DUMB", side.map_dumb(file, handle), Errno::NOENT)?;
        refused("DESTROY_DUMB", side.destroy_dumb(file, handle), Errno::INVAL)?;
    }
    let handle = buffer(side, file, 1)?.handle;
    fine("DESTROY_DUMB", side.destroy_dumb(file, handle))?;
    refused("GEM_CLOSE after it", side.gem_close(file, handle), Errno::INVAL)?;
    // It closes whatever handle it is given.
    let (handle, fd) = exported(side, file)?;
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    let handle = import(side, file, fd)?;
    fine("DESTROY_DUMB of an import", side.destroy_dumb(file, handle))
}

fn dmabuf_mmap_past_the_end_is_einval(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, 2)?.handle;
    let fd = export(side, file, handle)?;
    let udmabuf = fine("UDMABUF_CREATE", side.udmabuf(Memory::Sealed(2 * PAGE), 0, 2 * PAGE))?;
    for fd in [fd, udmabuf] {
        for (offset, len) in
            [(0, 3 * PAGE), (0, 2 * PAGE + 1), (PAGE, 2 * PAGE), (2 * PAGE, PAGE), (1 << 40, PAGE)]
        {
            let what = format!("{len} bytes at {offset}");
            refused(&what, side.mmap(fd, offset, len, true), Errno::INVAL)?;
        }
        refused("an empty mapping", side.mmap(fd, 0, 0, false), Errno::INVAL)?;
        refused("an offset inside of a page", side.mmap(fd, 1, PAGE, false), Errno::INVAL)?;
        for (offset, len) in [(0, 2 * PAGE), (0, 1), (PAGE, PAGE), (PAGE, 1)] {
            let map = fine("mmap", side.mmap(fd, offset, len, true))?;
            side.unmap(map);
        }
    }
    Ok(())
}

fn dmabuf_seeks_to_start_and_end_only(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let handle = buffer(side, file, 2)?.handle;
    let fd = export(side, file, handle)?;
    expect_equal("SEEK_END", fine("lseek", side.seek(fd, 0, Whence::End))?, 2 * PAGE)?;
    expect_equal("SEEK_SET", fine("lseek", side.seek(fd, 0, Whence::Set))?, 0)?;
    for (offset, whence) in [
        (0, Whence::Cur),
        (1, Whence::Cur),
        (1, Whence::Set),
        (4096, Whence::Set),
        (1, Whence::End),
        (-1, Whence::End),
        (-4096, Whence::End),
    ] {
        refused(&format!("{whence:?} {offset}"), side.seek(fd, offset, whence), Errno::INVAL)?;
    }
    Ok(())
}

fn dmabuf_is_neither_read_written_nor_truncated(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    let udmabuf = fine("UDMABUF_CREATE", side.udmabuf(Memory::Sealed(PAGE), 0, PAGE))?;
    for fd in [fd, udmabuf] {
        refused("read", side.read(fd), Errno::INVAL)?;
        refused("write", side.write(fd), Errno::INVAL)?;
        for len in [0, PAGE, 2 * PAGE] {
            refused("ftruncate", side.ftruncate(fd, len), Errno::INVAL)?;
        }
        expect_equal("st_size", fine("fstat", side.size(fd))?, PAGE)?;
    }
    Ok(())
}

fn dmabuf_sync_wants_a_direction_and_no_more(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    for flags in [0, SYNC_END, 8, 8 | SYNC_READ, 1 << 32 | SYNC_READ, u64::MAX] {
        refused(&format!("SYNC {flags:#x}"), side.sync(fd, flags), Errno::INVAL)?;
    }
    for direction in [SYNC_READ, SYNC_WRITE, SYNC_READ | SYNC_WRITE] {
        fine("SYNC start", side.sync(fd, direction))?;
        fine("SYNC end", side.sync(fd, direction | SYNC_END))?;
        // Ends need no start with this exporter.
        fine("SYNC end again", side.sync(fd, direction | SYNC_END))?;
    }
    // With udmabuf they do.
    let udmabuf = fine("UDMABUF_CREATE", side.udmabuf(Memory::Sealed(PAGE), 0, PAGE))?;
    refused("an end without a start", side.sync(udmabuf, SYNC_READ | SYNC_END), Errno::INVAL)?;
    fine("SYNC start", side.sync(udmabuf, SYNC_READ))?;
    fine("SYNC end", side.sync(udmabuf, SYNC_READ | SYNC_END))
}

fn dmabuf_unknown_ioctl_is_enotty(side: &mut dyn Contract) -> Result<()> {
    let file = vgem(side)?;
    let (_, fd) = exported(side, file)?;
    refused("an unknown ioctl", side.unknown_ioctl(fd), Errno::NOTTY)
}

fn udmabuf_bad_memory_and_bad_ranges(side: &mut dyn Contract) -> Result<()> {
    let four = 4 * PAGE;
    for (memory, offset, size, errno) in [
        (Memory::Unsealed(four), 0, four, Errno::INVAL),
        (Memory::WriteSealed(four), 0, four, Errno::INVAL),
        (Memory::Sealed(four), 1, PAGE, Errno::INVAL),
        (Memory::Sealed(four), 0, PAGE + 1, Errno::INVAL),
        (Memory::Sealed(four), 0, 0, Errno::INVAL),
        (Memory::Sealed(four), four, PAGE, Errno::INVAL),
        (Memory::Sealed(four), PAGE, four, Errno::INVAL),
        (Memory::Sealed(four), 0, 65 << 20, Errno::INVAL),
        (Memory::DevNull, 0, PAGE, Errno::BADFD),
        (Memory::Bad, 0, PAGE, Errno::BADFD),
        // What is wrong with the range comes before what is wrong with the memory.
        (Memory::Bad, 1, PAGE, Errno::INVAL),
        (Memory::DevNull, 0, 0, Errno::INVAL),
    ] {
        let what = format!("UDMABUF_CREATE of {memory:?}, {size} bytes at {offset}");
        refused(&what, side.udmabuf(memory, offset, size), errno)?;
    }
    let fd = fine("UDMABUF_CREATE", side.udmabuf(Memory::Sealed(four), PAGE, 2 * PAGE))?;
    expect_equal("size", fine("fstat", side.size(fd))?, 2 * PAGE)?;
    side.limit_fds(Some(0));
    let answer = side.udmabuf(Memory::Sealed(PAGE), 0, PAGE);
    side.limit_fds(None);
    refused("no descriptor left", answer, Errno::MFILE)
}
