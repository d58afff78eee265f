//! Framebuffers: what `ADDFB2` takes, who keeps what, and the three ways they end.

use super::*;

pub(super) fn xrgb(width: u32, height: u32, handle: u32) -> Fb2Request {
    Fb2Request {
        width,
        height,
        pixel_format: u32::from_le_bytes(*b"XR24"),
        handles: [handle, 0, 0, 0],
        pitches: [width.saturating_mul(4), 0, 0, 0],
        ..Fb2Request::default()
    }
}

fn nv12(handle: u32) -> Fb2Request {
    Fb2Request {
        width: 64,
        height: 64,
        pixel_format: u32::from_le_bytes(*b"NV12"),
        handles: [handle, handle, 0, 0],
        pitches: [64, 64, 0, 0],
        offsets: [0, 4096, 0, 0],
        ..Fb2Request::default()
    }
}

#[test]
fn addfb2_refuses_in_the_kernels_words() {
    let bench = Bench::new(Profile::MODERN);
    let file = &bench.b;
    let handle = dumb(file);
    let good = xrgb(64, 64, handle);
    let with = |change: &dyn Fn(&mut Fb2Request)| {
        let mut request = good;
        change(&mut request);
        file.addfb2(&request)
    };
    let modifier = |value| {
        move |r: &mut Fb2Request| {
            r.flags = MODIFIERS;
            r.modifiers[0] = value;
        }
    };
    type Change<'a> = &'a dyn Fn(&mut Fb2Request);
    let refused: &[(&str, Errno, Change<'_>)] = &[
        ("flags", Errno::INVAL, &|r| r.flags = 4),
        ("width 0", Errno::INVAL, &|r| r.width = 0),
        ("height 0", Errno::INVAL, &|r| r.height = 0),
        ("too narrow", Errno::INVAL, &|r| r.width = 9),
        ("too low", Errno::INVAL, &|r| r.height = 9),
        ("too wide", Errno::INVAL, &|r| (r.width, r.pitches[0]) = (8193, 8193 * 4)),
        ("too high", Errno::INVAL, &|r| r.height = 8193),
        ("no format", Errno::INVAL, &|r| r.pixel_format = 0),
        ("format of no plane", Errno::INVAL, &|r| r.pixel_format = u32::from_le_bytes(*b"XR30")),
        ("handle 0", Errno::INVAL, &|r| r.handles[0] = 0),
        ("unknown handle", Errno::NOENT, &|r| r.handles[0] = handle + 1),
        ("pitch", Errno::INVAL, &|r| r.pitches[0] = 255),
        ("buffer too small", Errno::INVAL, &|r| r.height = 65),
        ("offset", Errno::INVAL, &|r| r.offsets[0] = 1),
        ("4 GiB by offset", Errno::RANGE, &|r| r.offsets[0] = u32::MAX),
        ("4 GiB by pitch", Errno::RANGE, &|r| r.pitches[0] = 1 << 26),
        ("modifier without its flag", Errno::INVAL, &|r| r.modifiers[0] = 1),
        ("unknown modifier", Errno::INVAL, &modifier(0x0100_0000_0000_0001)),
        ("modifier of an unused plane", Errno::INVAL, &|r| r.modifiers[3] = 1),
        ("handle of an unused plane", Errno::INVAL, &|r| (r.flags, r.handles[1]) = (MODIFIERS, handle)),
        ("pitch of an unused plane", Errno::INVAL, &|r| (r.flags, r.pitches[1]) = (MODIFIERS, 1)),
        ("offset of an unused plane", Errno::INVAL, &|r| (r.flags, r.offsets[1]) = (MODIFIERS, 1)),
    ];
    let before = bench.machine.census();
    for (what, errno, change) in refused {
        assert_eq!(with(*change), Err(*errno), "{what}");
        assert_eq!(bench.machine.census(), before, "{what}");
    }
    // Garbage in unused planes is let through without the flag, and INTERLACED and LINEAR are fine.
    let unused = |r: &mut Fb2Request| (r.handles[1], r.pitches[2], r.offsets[3]) = (77, 1, 1);
    let first = with(&unused).unwrap();
    assert_eq!(with(&modifier(0)), Ok(first + 1));
    assert_eq!(with(&|r| r.flags = 1), Ok(first + 2));
    assert_eq!(bench.close(), []);
}

#[test]
fn the_order_of_addfb2s_checks() {
    let bench = Bench::new(Profile::MODERN);
    let mut r = xrgb(64, 64, 0);
    r.offsets[0] = u32::MAX;
    assert_eq!(bench.b.addfb2(&r), Err(Errno::INVAL), "handle 0 before the range");
    (r.handles[0], r.pitches[0]) = (9, 1);
    assert_eq!(bench.b.addfb2(&r), Err(Errno::RANGE), "the range before the pitch");
    r.offsets[0] = 0;
    assert_eq!(bench.b.addfb2(&r), Err(Errno::INVAL), "the pitch before the handle");
    r.pitches[0] = 256;
    assert_eq!(bench.b.addfb2(&r), Err(Errno::NOENT));
    assert_eq!(bench.a.addfb2(&r), Err(Errno::OPNOTSUPP), "no display at all");
    let render = bench.vgem.open(Node::Render).unwrap();
    assert_eq!(render.addfb2(&r), Err(Errno::ACCESS));
    assert_eq!(render.create_dumb(64, 64, 32), Err(Errno::ACCESS));
    drop(render);
    assert_eq!(bench.close(), []);
}

#[test]
fn addfb2_failures_give_back_what_they_took() {
    for point in [FaultPoint::FramebufferAlloc, FaultPoint::FramebufferId] {
        let bench = Bench::new(Profile::MODERN);
        let handle = dumb(&bench.b);
        let before = bench.machine.census();
        bench.machine.fail(point, 1, Errno::NOMEM);
        assert_eq!(bench.b.addfb2(&nv12(handle)), Err(Errno::NOMEM));
        assert_eq!(bench.machine.census(), before);
        bench.b.addfb2(&nv12(handle)).unwrap();
        assert_eq!(bench.close(), []);
    }
}

#[test]
fn c12_i8_a_framebuffer_holds_a_handle_reference() {
    let after_close = |profile: Profile| {
        let bench = Bench::new(profile);
        let (_, fd) = bench.exported();
        let handle = import(&bench.b, &fd).unwrap();
        let fb = bench.b.addfb2(&xrgb(64, 64, handle)).unwrap();
        let before = fd.count();
        bench.b.gem_close(handle).unwrap();
        let dropped = before - fd.count();
        // The buffer is still the one it was.
        let twin = bench.b.getfb2(fb).unwrap().handles[0];
        let again = bench.b.handle_to_fd(twin, 0).unwrap();
        assert_eq!(again.inode(), fd.inode());
        drop((fd, again));
        assert_eq!(bench.close(), []);
        dropped
    };
    // Of the import's three, the cache entry goes; the link stays with the framebuffer's handle reference.
    assert_eq!(after_close(Profile::MODERN), 1);
    assert_eq!(after_close(Profile::MODERN.with(SeedTrait::FbHoldsObjectOnly)), 2);
    assert_eq!(after_close(Profile::SEED), 1);
}

#[test]
fn i8_a_native_buffer_keeps_its_inode_through_a_framebuffer() {
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.b);
    let inode = bench.b.handle_to_fd(handle, 0).unwrap().inode();
    let fb = bench.b.addfb2(&xrgb(64, 64, handle)).unwrap();
    bench.b.gem_close(handle).unwrap();
    let twin = bench.b.getfb2(fb).unwrap().handles[0];
    assert_eq!(bench.b.handle_to_fd(twin, 0).unwrap().inode(), inode);
    bench.b.rmfb(fb).unwrap();
    bench.b.gem_close(twin).unwrap();
    assert_eq!(bench.machine.census().objects, 0);
    assert_eq!(bench.close(), []);
}

#[test]
fn i5_minted_handles_are_outside_of_dedupe() {
    let bench = Bench::new(Profile::MODERN);
    let (_, fd) = bench.exported();
    let handle = import(&bench.b, &fd).unwrap();
    let fb = bench.b.addfb2(&xrgb(64, 64, handle)).unwrap();
    let twin = bench.b.getfb2(fb).unwrap().handles[0];
    assert_ne!(twin, handle);
    let before = fd.count();
    bench.b.gem_close(handle).unwrap();
    let again = import(&bench.b, &fd).unwrap();
    assert_eq!(
        (again, fd.count()),
        (handle, before + 2),
        "a new object: one entry less, three references more"
    );
    drop(fd);
    assert_eq!(bench.close(), []);
}

#[test]
fn i12_getfb2_gives_equal_handles_for_equal_objects() {
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.b);
    let fb = bench.b.addfb2(&nv12(handle)).unwrap();
    let got = bench.b.getfb2(fb).unwrap();
    assert_eq!((got.flags, got.width, got.height), (MODIFIERS, 64, 64));
    assert_eq!((got.handles, got.pitches, got.offsets), ([2, 2, 0, 0], [64, 64, 0, 0], [0, 4096, 0, 0]));
    assert_eq!(bench.b.getfb(fb), Err(Errno::INVAL), "several planes");
    let again = bench.b.getfb2(fb).unwrap();
    assert_eq!(again.handles, [3, 3, 0, 0], "a new one each time");
    bench.b.addfb2(&again).unwrap();
    assert_eq!(bench.close(), []);
}

#[test]
fn getfb_tells_the_old_story() {
    let bench = Bench::new(Profile::MODERN);
    let fb = bench.b.addfb2(&xrgb(64, 60, dumb(&bench.b))).unwrap();
    let expected = Fb { width: 64, height: 60, pitch: 256, bpp: 32, depth: 24, handle: 2 };
    assert_eq!(bench.b.getfb(fb), Ok(expected));
    assert_eq!((bench.b.getfb(fb + 1), bench.b.getfb2(0)), (Err(Errno::NOENT), Err(Errno::NOENT)));
    assert_eq!((bench.a.getfb(fb), bench.a.getfb2(fb)), (Err(Errno::OPNOTSUPP), Err(Errno::INVAL)));
    // Neither master nor privileged: handle 0.
    let guest = bench.vkms.open(Node::Primary).unwrap();
    assert_eq!(guest.getfb(fb).unwrap().handle, 1);
    bench.machine.set_admin(false);
    assert_eq!(guest.getfb(fb).unwrap().handle, 0);
    assert_eq!(guest.getfb2(fb).unwrap().handles, [0; 4]);
    assert_eq!(bench.b.getfb(fb).unwrap().handle, 3, "the master");
    drop(guest);
    assert_eq!(bench.close(), []);
}

#[test]
fn getfb2_that_fails_half_way_closes_what_it_made() {
    let bench = Bench::new(Profile::MODERN);
    let (one, two) = (dumb(&bench.b), dumb(&bench.b));
    let mut r = nv12(one);
    (r.handles[1], r.offsets[1]) = (two, 0);
    let fb = bench.b.addfb2(&r).unwrap();
    let before = bench.machine.census();
    bench.machine.fail(FaultPoint::HandleAlloc, 2, Errno::NOMEM);
    assert_eq!(bench.b.getfb2(fb), Err(Errno::NOMEM));
    assert_eq!(bench.machine.census(), before);
    assert_eq!(bench.b.getfb2(fb).unwrap().handles, [3, 4, 0, 0]);
    assert_eq!(bench.close(), []);
}

#[test]
fn rmfb_turns_planes_off_and_closefb_does_not() {
    let bench = Bench::new(Profile::MODERN);
    let file = &bench.b;
    let handle = dumb(file);
    let [first, second] = [(); 2].map(|()| file.addfb2(&xrgb(64, 64, handle)).unwrap());
    file.set_plane(0, Some(first)).unwrap();
    file.set_plane(1, Some(first)).unwrap();
    file.rmfb(first).unwrap();
    assert_eq!([0, 1].map(|plane| bench.vkms.plane_framebuffer(plane)), [None; 2]);
    file.set_plane(0, Some(second)).unwrap();
    assert_eq!(file.closefb(second, 1), Err(Errno::INVAL));
    file.closefb(second, 0).unwrap();
    assert_eq!(bench.vkms.plane_framebuffer(0), Some(second));
    assert_eq!(file.closefb(second, 0), Err(Errno::NOENT), "no longer the file's, though it lives");
    assert_eq!(file.rmfb(second), Err(Errno::NOENT));
    let guest = bench.vkms.open(Node::Primary).unwrap();
    assert_eq!(guest.getfb(second).unwrap().width, 64, "readable by the next master");
    file.set_plane(0, None).unwrap();
    assert_eq!(guest.getfb(second), Err(Errno::NOENT));
    drop(guest);
    assert_eq!(bench.close(), []);
}

#[test]
fn another_files_framebuffer_is_enoent() {
    let bench = Bench::new(Profile::MODERN);
    let guest = bench.vkms.open(Node::Primary).unwrap();
    let fb = bench.b.addfb2(&xrgb(64, 64, dumb(&bench.b))).unwrap();
    assert_eq!((guest.rmfb(fb), guest.closefb(fb, 0)), (Err(Errno::NOENT), Err(Errno::NOENT)));
    assert_eq!(bench.a.rmfb(fb), Err(Errno::OPNOTSUPP));
    assert_eq!(bench.a.closefb(fb, 1), Err(Errno::OPNOTSUPP), "before the padding");
    bench.b.rmfb(fb).unwrap();
    assert_eq!(bench.b.rmfb(fb), Err(Errno::NOENT));
    drop(guest);
    assert_eq!(bench.close(), []);
}

#[test]
fn framebuffer_ids_are_the_lowest_free() {
    let bench = Bench::new(Profile::MODERN);
    let handle = dumb(&bench.b);
    let add = || bench.b.addfb2(&xrgb(64, 64, handle)).unwrap();
    let ids = [add(), add(), add()];
    assert_eq!(ids, [ids[0], ids[0] + 1, ids[0] + 2]);
    bench.b.closefb(ids[1], 0).unwrap();
    assert_eq!(add(), ids[1]);
    assert_eq!(bench.close(), []);
}

#[test]
fn dumb_sizes() {
    let bench = Bench::new(Profile::MODERN);
    let size = |w, h, bpp| bench.a.create_dumb(w, h, bpp).map(|dumb| (dumb.pitch, dumb.size));
    assert_eq!(size(64, 64, 32), Ok((256, 16384)));
    assert_eq!(size(33, 3, 1), Ok((5, 4096)));
    assert_eq!(size(10, 10, 15), Ok((20, 4096)));
    assert_eq!(size(100, 100, 12), Ok((200, 20480)));
    assert_eq!(size(100, 100, 64), Ok((800, 81920)));
    let bad =
        [(0, 1, 32), (1, 0, 32), (1, 1, 0), (u32::MAX, 1, 32), (1 << 15, 1 << 15, 32), (1, 1, u32::MAX)];
    for (w, h, bpp) in bad {
        assert_eq!(size(w, h, bpp), Err(Errno::INVAL), "{w}x{h} {bpp}");
    }
    bench.machine.fail(FaultPoint::ObjectAlloc, 1, Errno::NOMEM);
    assert_eq!(size(1, 1, 8), Err(Errno::NOMEM));
    bench.machine.fail(FaultPoint::HandleAlloc, 1, Errno::NOSPC);
    assert_eq!(size(1, 1, 8), Err(Errno::NOSPC));
    assert_eq!(bench.close(), []);
}

#[test]
fn i14_an_import_is_not_a_dumb_buffer() {
    let bench = Bench::new(Profile::MODERN);
    let (own, fd) = bench.exported();
    let other = bench.vgem.open(Node::Primary).unwrap();
    let same = import(&other, &fd).unwrap();
    let foreign = import(&bench.b, &fd).unwrap();
    assert_eq!(bench.b.map_dumb(foreign, 4096).unwrap_err(), Errno::INVAL);
    assert_eq!(bench.b.map_dumb(99, 4096).unwrap_err(), Errno::NOENT);
    assert_eq!(bench.a.map_dumb(own, 16385).unwrap_err(), Errno::INVAL);
    assert_eq!(bench.a.map_dumb(own, 0).unwrap_err(), Errno::INVAL);
    let mut map = other.map_dumb(same, 16384).unwrap();
    assert!(map.mapping_mut().fill(0, 16384, 3));
    drop(other);
    assert_eq!(bench.machine.census().files, 3, "the mapping keeps the file open");
    drop(map);
    assert_eq!(bench.machine.census().files, 2);
    bench.b.destroy_dumb(foreign).unwrap();
    assert_eq!(bench.b.destroy_dumb(foreign), Err(Errno::INVAL));
    drop(fd);
    assert_eq!(bench.close(), []);
}
