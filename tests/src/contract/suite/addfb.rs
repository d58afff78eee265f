//! `ADDFB2`: kms_addfb_basic of intel-gpu-tools and the contract's rows of errnos.

use anyhow::Result;
use rustix::io::Errno;

use super::{buffer, cases, expect_equal, exported, import, square, vgem, vkms};
use crate::contract::{Contract, FB_MODIFIERS, Fb2, File, fine, refused};

cases! {
    igt_kms_addfb_basic_unused_handle,
    igt_kms_addfb_basic_unused_pitches,
    igt_kms_addfb_basic_unused_offsets,
    igt_kms_addfb_basic_unused_modifier,
    unused_planes_are_looked_at_with_the_modifier_flag_only,
    igt_kms_addfb_basic_no_handle,
    igt_kms_addfb_basic_bad_pitch,
    igt_kms_addfb_basic_size_max,
    igt_kms_addfb_basic_too_wide_and_too_high,
    igt_kms_addfb_basic_bo_too_small,
    igt_kms_addfb_basic_addfb25_modifier_no_flag,
    igt_kms_addfb_basic_addfb25_bad_modifier,
    igt_kms_addfb_basic_clobbered_format,
    igt_kms_addfb_basic_bad_flags,
    igt_kms_addfb_basic_master_rmfb,
    addfb_handle_of_another_file_is_enoent,
    addfb_beyond_32_bits_is_erange,
    addfb_sizes_the_device_does_not_take,
    addfb_formats_the_device_does_not_take,
    addfb_planes_share_one_modifier,
    addfb_checks_every_plane,
    addfb_takes_imports,
    addfb_needs_no_descriptor,
}

const X_TILED: u64 = (1 << 56) | 1;
const NOWHERE: u32 = 4711;

fn good(side: &mut dyn Contract, file: File) -> Result<Fb2> {
    Ok(Fb2::xrgb(square(side, file)?.handle, 64, 64))
}

fn taken(side: &mut dyn Contract, what: &str, file: File, request: &Fb2) -> Result<()> {
    let id = fine(what, side.addfb2(file, request))?;
    fine("RMFB", side.rmfb(file, id))
}

fn invalid(side: &mut dyn Contract, what: &str, file: File, request: &Fb2) -> Result<()> {
    refused(what, side.addfb2(file, request), Errno::INVAL)
}

/// With the modifier flag, every field of a plane that the format does not have must be 0.
fn unused(side: &mut dyn Contract, change: fn(&mut Fb2, usize)) -> Result<()> {
    let file = vkms(side)?;
    let request = Fb2 { flags: FB_MODIFIERS, ..good(side, file)? };
    if side.caps().modifiers {
        taken(side, "nothing unused", file, &request)?;
    } else {
        invalid(side, "modifiers on a device without", file, &request)?;
    }
    for plane in 1..4 {
        let mut request = request;
        change(&mut request, plane);
        invalid(side, &format!("plane {plane}"), file, &request)?;
    }
    Ok(())
}

fn igt_kms_addfb_basic_unused_handle(side: &mut dyn Contract) -> Result<()> {
    unused(side, |request, plane| request.handles[plane] = request.handles[0])
}

fn igt_kms_addfb_basic_unused_pitches(side: &mut dyn Contract) -> Result<()> {
    unused(side, |request, plane| request.pitches[plane] = request.pitches[0])
}

fn igt_kms_addfb_basic_unused_offsets(side: &mut dyn Contract) -> Result<()> {
    unused(side, |request, plane| request.offsets[plane] = 1)
}

fn igt_kms_addfb_basic_unused_modifier(side: &mut dyn Contract) -> Result<()> {
    unused(side, |request, plane| request.modifiers[plane] = X_TILED)
}

fn unused_planes_are_looked_at_with_the_modifier_flag_only(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    let junk = Fb2 {
        handles: [request.handles[0], NOWHERE, NOWHERE, NOWHERE],
        pitches: [request.pitches[0], 1, 2, 3],
        offsets: [0, 1, 2, 3],
        ..request
    };
    taken(side, "junk in unused planes", file, &junk)?;
    invalid(side, "junk modifiers", file, &Fb2 { modifiers: [0, 0, 0, 1], ..request })
}

fn igt_kms_addfb_basic_no_handle(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    invalid(side, "handle 0", file, &Fb2 { handles: [0; 4], ..request })?;
    let bad = Fb2 { handles: [NOWHERE, 0, 0, 0], ..request };
    refused("a handle of nothing", side.addfb2(file, &bad), Errno::NOENT)?;
    let closed = request.handles[0];
    fine("GEM_CLOSE", side.gem_close(file, closed))?;
    refused("a closed handle", side.addfb2(file, &request), Errno::NOENT)
}

fn igt_kms_addfb_basic_bad_pitch(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    for pitch in [0, 1, 32, 63, 128, 255, 257, 999, 64 * 1024] {
        let what = format!("pitch {pitch}");
        let request = Fb2 { pitches: [pitch, 0, 0, 0], ..request };
        // Too short for a row, or so long that the last row does not fit.
        invalid(side, &what, file, &request)?;
    }
    taken(side, "the tightest pitch", file, &request)?;
    taken(side, "a wider pitch", file, &Fb2 { height: 32, pitches: [512, 0, 0, 0], ..request })
}

/// The largest framebuffer of a buffer, and one more in each direction.
fn igt_kms_addfb_basic_size_max(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = fine("CREATE_DUMB", side.create_dumb(file, 1024, 1024, 32))?.handle;
    let request = Fb2::xrgb(handle, 1024, 1024);
    taken(side, "as large as the buffer", file, &request)?;
    invalid(side, "wider than its pitch", file, &Fb2 { width: 1025, ..request })?;
    invalid(side, "higher than the buffer", file, &Fb2 { height: 1025, ..request })?;
    taken(
        side,
        "a last row of its own",
        file,
        &Fb2 { offsets: [4096 * 24, 0, 0, 0], height: 1000, ..request },
    )
}

fn igt_kms_addfb_basic_too_wide_and_too_high(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    invalid(side, "too wide", file, &Fb2 { width: 65, ..request })?;
    invalid(side, "too high", file, &Fb2 { height: 65, ..request })?;
    invalid(side, "too far down", file, &Fb2 { offsets: [4, 0, 0, 0], ..request })
}

fn igt_kms_addfb_basic_bo_too_small(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = buffer(side, file, 1)?.handle;
    taken(side, "a page", file, &Fb2::xrgb(handle, 32, 32))?;
    invalid(side, "a page and a row", file, &Fb2::xrgb(handle, 32, 33))?;
    invalid(side, "64 by 64", file, &Fb2::xrgb(handle, 64, 64))?;
    // A last row need not have its padding.
    let padded = Fb2 { pitches: [256, 0, 0, 0], offsets: [128, 0, 0, 0], ..Fb2::xrgb(handle, 32, 16) };
    taken(side, "without the last padding", file, &padded)
}

fn igt_kms_addfb_basic_addfb25_modifier_no_flag(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    invalid(side, "a modifier without the flag", file, &Fb2 { modifiers: [X_TILED, 0, 0, 0], ..request })?;
    let linear = Fb2 { flags: FB_MODIFIERS, ..request };
    if side.caps().modifiers {
        taken(side, "linear", file, &linear)
    } else {
        invalid(side, "linear on a device without modifiers", file, &linear)
    }
}

fn igt_kms_addfb_basic_addfb25_bad_modifier(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    for modifier in [X_TILED, !0, (1 << 56) - 1] {
        let what = format!("modifier {modifier:#x}");
        let request = Fb2 { flags: FB_MODIFIERS, modifiers: [modifier, 0, 0, 0], ..request };
        invalid(side, &what, file, &request)?;
    }
    Ok(())
}

fn igt_kms_addfb_basic_clobbered_format(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    for format in [0, !0, request.format ^ 1, request.format & 0xffff] {
        invalid(side, &format!("format {format:#x}"), file, &Fb2 { format, ..request })?;
    }
    Ok(())
}

fn igt_kms_addfb_basic_bad_flags(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    for flags in [4, 8, 1 << 31, u32::MAX] {
        invalid(side, &format!("flags {flags:#x}"), file, &Fb2 { flags, ..request })?;
    }
    // Interlaced is a flag that this check knows.
    taken(side, "interlaced", file, &Fb2 { flags: 1, ..request })
}

/// A framebuffer belongs to the file that made it, master or not.
fn igt_kms_addfb_basic_master_rmfb(side: &mut dyn Contract) -> Result<()> {
    let (master, other) = (vkms(side)?, vkms(side)?);
    let request = good(side, other)?;
    let id = fine("ADDFB2", side.addfb2(other, &request))?;
    refused("RMFB by the master", side.rmfb(master, id), Errno::NOENT)?;
    fine("RMFB by the owner", side.rmfb(other, id))
}

fn addfb_handle_of_another_file_is_enoent(side: &mut dyn Contract) -> Result<()> {
    let (one, two) = (vkms(side)?, vkms(side)?);
    let request = good(side, one)?;
    refused("the number in another file", side.addfb2(two, &request), Errno::NOENT)
}

fn addfb_beyond_32_bits_is_erange(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    for (pitch, offset) in [(u32::MAX, 0), (256, u32::MAX), (u32::MAX, u32::MAX), ((1 << 26) + 4, 0)] {
        let what = format!("pitch {pitch} offset {offset}");
        let request = Fb2 { pitches: [pitch, 0, 0, 0], offsets: [offset, 0, 0, 0], ..request };
        refused(&what, side.addfb2(file, &request), Errno::RANGE)?;
    }
    // The sizes come first, the handle last.
    let nobody = Fb2 { handles: [NOWHERE, 0, 0, 0], pitches: [u32::MAX, 0, 0, 0], ..request };
    refused("ERANGE before ENOENT", side.addfb2(file, &nobody), Errno::RANGE)?;
    invalid(side, "EINVAL before ERANGE", file, &Fb2 { width: 0, ..nobody })
}

fn addfb_sizes_the_device_does_not_take(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = fine("CREATE_DUMB", side.create_dumb(file, 8193, 64, 32))?.handle;
    let request = Fb2::xrgb(handle, 8192, 16);
    taken(side, "the widest", file, &request)?;
    for (width, height) in [(8193, 16), (0, 16), (9, 16), (16, 0), (16, 9), (16, 8193), (u32::MAX, u32::MAX)]
    {
        let what = format!("{width}x{height}");
        invalid(side, &what, file, &Fb2 { width, height, ..request })?;
    }
    taken(side, "the smallest", file, &Fb2 { width: 10, height: 10, ..request })
}

fn addfb_formats_the_device_does_not_take(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    for format in [b"XR30", b"AB4H", b"YUYV", b"C8  "] {
        let format = u32::from_le_bytes(*format);
        invalid(side, &format!("format {format:#x}"), file, &Fb2 { format, ..request })?;
    }
    for format in [b"AR24", b"XB24", b"BA24", b"RG16"] {
        let format = u32::from_le_bytes(*format);
        taken(side, &format!("format {format:#x}"), file, &Fb2 { format, ..request })?;
    }
    Ok(())
}

fn addfb_planes_share_one_modifier(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = square(side, file)?.handle;
    let request = Fb2 { flags: FB_MODIFIERS, ..Fb2::nv12(handle, 64, 64) };
    if side.caps().modifiers {
        taken(side, "linear", file, &request)?;
    }
    invalid(side, "two modifiers", file, &Fb2 { modifiers: [0, X_TILED, 0, 0], ..request })
}

fn addfb_checks_every_plane(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let handle = buffer(side, file, 2)?.handle;
    let request = Fb2::nv12(handle, 64, 64);
    taken(side, "both planes", file, &request)?;
    invalid(side, "no second handle", file, &Fb2 { handles: [handle, 0, 0, 0], ..request })?;
    let nobody = Fb2 { handles: [handle, NOWHERE, 0, 0], ..request };
    refused("a second handle of nothing", side.addfb2(file, &nobody), Errno::NOENT)?;
    invalid(side, "a short second pitch", file, &Fb2 { pitches: [64, 63, 0, 0], ..request })?;
    invalid(
        side,
        "a second plane past the end",
        file,
        &Fb2 { offsets: [0, 8192 - 64 * 31, 0, 0], ..request },
    )?;
    let far = Fb2 { offsets: [0, u32::MAX, 0, 0], ..request };
    refused("a second plane beyond 32 bits", side.addfb2(file, &far), Errno::RANGE)?;
    // What failed half-way holds no object: its numbers are free after the close.
    fine("GEM_CLOSE", side.gem_close(file, handle))?;
    expect_equal("the next handle", buffer(side, file, 1)?.handle, handle)
}

fn addfb_takes_imports(side: &mut dyn Contract) -> Result<()> {
    let (exporter, importer) = (vgem(side)?, vkms(side)?);
    let (_, fd) = exported(side, exporter)?;
    let handle = import(side, importer, fd)?;
    taken(side, "an import", importer, &Fb2::xrgb(handle, 32, 32))?;
    invalid(side, "more than the import", importer, &Fb2::xrgb(handle, 32, 33))
}

fn addfb_needs_no_descriptor(side: &mut dyn Contract) -> Result<()> {
    let file = vkms(side)?;
    let request = good(side, file)?;
    side.limit_fds(Some(0));
    let id = side.addfb2(file, &request);
    side.limit_fds(None);
    fine("ADDFB2", id).map(drop)
}
